"""The callback of `trial.keras(model)`: it reports each epoch of Keras's `fit`, saves checkpoints and restores them.

It uses Keras's own interface only, so that it works with each of Keras's backends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from sweeper.spec import Budget

CHECKPOINT_INTERVAL_S = 2.0
"""Least time between two checkpoints, in seconds: each waits for the disk, so not every fast epoch gets one."""

_STATE_FILE = "state.npz"


class FitTrial(Protocol):
    """The part of a trial that the callback needs."""

    budget: Budget
    reports: int
    step: int
    checkpoint: Path | None

    @property
    def may_pause(self) -> bool: ...

    def report(self, metrics: Mapping[str, float], *, checkpoint: Callable[[Path], None] | None = None) -> None: ...


def make_callback(trial: FitTrial, on_end: Callable[[Any], None]) -> Any:
    """Return the callback.

    Args:
        on_end: called with the model when `fit` has ended, unless the trial was stopped.

    Raises:
        ValueError: the budget asks for reports within an epoch, where Keras has no validation metrics.
    """
    if trial.budget.epochs != trial.reports:
        unit = "gradient steps" if trial.budget.steps else f"{trial.budget.reports_per_epoch} reports per epoch"
        raise ValueError(
            f"trial.keras() reports once per epoch, but the budget is in {unit}. Give `epochs` in the budget and no "
            "`reports_per_epoch`; or call trial.report() in a callback of your own"
        )
    import keras

    class Report(keras.callbacks.Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._saved = time.monotonic()
            self._is_first = True

        def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
            if self._is_first and trial.checkpoint is not None:
                _restore(self.model, trial.checkpoint / _STATE_FILE)

        def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
            if self._is_first and epoch != trial.step:
                raise ValueError(
                    f"the trial resumes after epoch {trial.step}, but fit() begins after epoch {epoch}; "
                    "call it with initial_epoch=trial.step"
                )
            self._is_first = False

        def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
            is_last = trial.step + 1 >= trial.reports
            is_due = is_last or trial.may_pause or time.monotonic() - self._saved >= CHECKPOINT_INTERVAL_S
            trial.report(dict(logs or {}), checkpoint=self._save if is_due else None)
            if is_last:
                self.model.stop_training = True

        def _save(self, folder: Path) -> None:
            _save(self.model, folder / _STATE_FILE)
            self._saved = time.monotonic()

        def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
            on_end(self.model)

    return Report()


def _variables(model: Any) -> list[Any]:
    """Return all state of a model: weights, random generators and the optimizer's variables, which it makes if needed.

    Raises:
        ValueError: the model has no weights yet.
    """
    if not model.built:
        raise ValueError("the model is not built yet; begin it with a keras.Input, or call it on a batch before fit()")
    optimizer = model.optimizer
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    return [*model.variables, *optimizer.variables]


def _save(model: Any, path: Path) -> None:
    import numpy as np

    arrays = [np.asarray(variable.numpy()) for variable in _variables(model)]
    # NumPy cannot load what it saves of a bfloat16; float32 holds all its values.
    np.savez(path, *[array.astype("float32") if array.dtype.kind == "V" else array for array in arrays])


def _restore(model: Any, path: Path) -> None:
    """Restore what `_save` wrote.

    Raises:
        ValueError: it is of another model.
    """
    import numpy as np

    variables = _variables(model)
    with np.load(path, allow_pickle=False) as saved:
        arrays = [saved[f"arr_{number}"] for number in range(len(saved.files))]
    if [array.shape for array in arrays] != [tuple(variable.shape) for variable in variables]:
        raise ValueError(f"the checkpoint in {path.parent} belongs to another model")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
