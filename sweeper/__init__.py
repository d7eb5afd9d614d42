"""Hyperparameter sweeps from one YAML file: Optuna chooses the trials, Ray Tune runs them, MLflow shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["Sweep", "SweepResult", "Trial", "load_sweep", "read_study", "report", "run_sweep"]

if TYPE_CHECKING:
    from sweeper.analysis.result import SweepResult
    from sweeper.run import run_sweep
    from sweeper.spec import Sweep, load_sweep
    from sweeper.study.open import read_study
    from sweeper.worker.script import report
    from sweeper.worker.trial import Trial

_MODULES = {
    "Sweep": "sweeper.spec",
    "SweepResult": "sweeper.analysis.result",
    "Trial": "sweeper.worker.trial",
    "load_sweep": "sweeper.spec",
    "read_study": "sweeper.study.open",
    "report": "sweeper.worker.script",
    "run_sweep": "sweeper.run",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is used: `sweeper --help` must not wait for Optuna."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)
