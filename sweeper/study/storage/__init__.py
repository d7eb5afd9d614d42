"""How a study is kept: Optuna's tables with a cache, the tables beside them, and waiting while the database is away."""
