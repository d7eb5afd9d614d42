"""The verbs that look at sweeps and change nothing."""
