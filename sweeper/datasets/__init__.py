"""Datasets that a sweep can learn from: found or downloaded, verified, split."""
