"""Trainables of the campaign: each appends to the history what it does, outside sweeper's storage."""

from __future__ import annotations

import ctypes
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweeper.training.hparams import RNNParams
from sweeper.training.trainable import evaluate
from sweeper.worker.trial import Trial
from tests.faults.checker import Line, write_line


def paper(params: dict[str, Any], trial: Trial) -> None:
    """Follow a curve that depends only on the parameters, the seed and the step; save a checkpoint at each report."""
    _log_steps(trial)
    value = float((trial.checkpoint / "value").read_text()) if trial.checkpoint else 0.0
    while trial.step < trial.reports:
        time.sleep(params.get("pause", 0.1))
        noise = random.Random(f"{trial.seed} {trial.step}").uniform(-0.05, 0.05)
        value += 0.5 * (params["height"] - value) + noise
        trial.report({"score": value}, checkpoint=_writer(value))
    write_line(Path.cwd(), Line("done", trial.number, trial.step, trial.attempt, os.getpid()))


def keras(params: RNNParams, trial: Trial) -> None:
    """Train the network that sweeper ships, with a checkpoint at each report."""
    from sweeper.training import trainable

    trainable.CHECKPOINT_SECONDS = 0.0
    _log_steps(trial)
    trainable.train_rnn(params, trial)
    write_line(Path.cwd(), Line("done", trial.number, trial.step, trial.attempt, os.getpid()))


keras.evaluate = evaluate  # type: ignore[attr-defined]


def misbehave(params: dict[str, Any], trial: Trial) -> None:
    """Do what the parameter `act` names in the place of the second report; behave well otherwise."""
    _log_steps(trial)
    while trial.step < trial.reports:
        act = ACTS.get(params["act"]) if trial.step == 1 else None
        metrics: Any = {"score": params["height"]} if act is None else act()
        trial.report(metrics)


def slow_to_save(params: dict[str, Any], trial: Trial) -> None:
    """Spend nearly all time writing checkpoints of ten files."""
    _log_steps(trial)
    value = float((trial.checkpoint / "9").read_text()) if trial.checkpoint else 0.0

    def write(folder: Path) -> None:
        for part in range(10):
            time.sleep(0.02)
            (folder / str(part)).write_text(str(value))

    while trial.step < trial.reports:
        value += params["height"]
        trial.report({"score": value}, checkpoint=write)


def _writer(value: float) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "value").write_text(repr(value))

    return write


def _log_steps(trial: Trial) -> None:
    """Append to the history that the trial starts, and from now on each step before it is reported."""
    folder, report = Path.cwd(), trial.report

    def logged(metrics: Any, **options: Any) -> None:
        write_line(folder, Line("epoch", trial.number, trial.step + 1, trial.attempt, os.getpid()))
        report(metrics, **options)

    write_line(folder, Line("start", trial.number, trial.step, trial.attempt, os.getpid()))
    trial.report = logged  # type: ignore[method-assign]


class _Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


def _raise(error: BaseException) -> Callable[[], Any]:
    def act() -> Any:
        raise error

    return act


def _score(value: Any) -> Callable[[], Any]:
    return lambda: {"score": value}


def _numpy(kind: str) -> Callable[[], Any]:
    def act() -> Any:
        import numpy as np

        return {"score": np.zeros(3) if kind == "array" else np.dtype(kind).type(0.5)}

    return act


ACTS: dict[str, Callable[[], Any]] = {
    "raise": _raise(ValueError("too high")),
    "import": _raise(ModuleNotFoundError("No module named 'kears'")),
    "unpicklable": _raise(_Unpicklable()),
    "sys.exit": lambda: sys.exit(0),
    "interrupt": _raise(KeyboardInterrupt()),
    "nan": _score(float("nan")),
    "inf": _score(float("inf")),
    "-inf": _score(float("-inf")),
    "overflow": _score(1e308 * 10),
    "misspelt": lambda: {"scores": 0.5},
    "nothing": lambda: {},
    "None": _score(None),
    "text": _score("x" * 1_000_000),
    "array": _numpy("array"),
    "lock": lambda: {"score": threading.Lock()},
    "float16": _numpy("float16"),
    "bool": _score(True),
}
"""Faults of a trainable that do not end its process; the last two are valid reports."""

CRASHES: dict[str, Callable[[], Any]] = {
    "_exit": lambda: os._exit(0),
    "abort": os.abort,
    "segfault": lambda: ctypes.string_at(0),
    "kill": lambda: os.kill(os.getpid(), 9),
}
"""Faults that end the trainable's process at each attempt."""

ACTS |= CRASHES
