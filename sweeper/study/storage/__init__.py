"""Storage of a study: Optuna's tables with a cache, sweeper's tables, finished trials, waits for a database."""
