"""Checks of sweep files, of this machine and of clusters."""
