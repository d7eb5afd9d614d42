"""Hyperparameter sweeps that lose nothing: Optuna decides, Ray Tune runs, MLflow shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["Sweep", "load_sweep", "run_sweep"]

if TYPE_CHECKING:
    from sweeper.run import run_sweep
    from sweeper.spec import Sweep, load_sweep

_HOMES = {"Sweep": "sweeper.spec", "load_sweep": "sweeper.spec", "run_sweep": "sweeper.run"}


def __getattr__(name: str) -> Any:
    """Import the public names when they are used: `sweeper --help` must not wait for Optuna."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
