"""Storage of a study: Optuna's tables with a cache, sweeper's tables, finished trials to reuse, waits for a database."""
