"""Storage of a study: Optuna's tables with a cache, sweeper's tables, and the wait for a database that is down."""
