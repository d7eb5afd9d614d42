"""Verbs for sweeps on a cluster: submit one, ask for its state, bring its results home."""
