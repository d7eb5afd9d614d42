"""Sweep files: their models, how they are loaded, and every message about a mistake in them."""

from sweeper.search.budget import Budget
from sweeper.search.confirming import Confirm
from sweeper.spec.names import Objective, Tracking
from sweeper.spec.resources import Resources, TrialResources
from sweeper.spec.sweep import Sweep, load_sweep, sweep_schema
from sweeper.spec.trainable import Command

__all__ = [
    "Budget",
    "Command",
    "Confirm",
    "Objective",
    "Resources",
    "Sweep",
    "Tracking",
    "TrialResources",
    "load_sweep",
    "sweep_schema",
]
