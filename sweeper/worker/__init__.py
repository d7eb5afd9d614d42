"""What runs in a trial's process. Knows no Ray and no Optuna."""
