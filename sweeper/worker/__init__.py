"""Code that runs in a trial's process. It imports neither Ray nor Optuna."""
