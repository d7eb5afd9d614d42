"""Sweeps over tables of learning curves: the decisions of a real sweep, without any training."""
