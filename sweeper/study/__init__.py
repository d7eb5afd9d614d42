"""The durable record of a sweep: an Optuna study in a database, written by one owner and read by anyone."""
