"""The one durable record of a sweep: an Optuna study, its database, its owner and its readers."""
