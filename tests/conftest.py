"""Fixtures of all tests: a folder for each test, and sweeps of a three-line trainable."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from sweeper.spec import Sweep

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

# Sweeps inherit ignored signals: a script's `&` makes them ignore Ctrl-C, `nohup` the end of the terminal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


hypothesis.settings.register_profile("untimed", deadline=None)  # busy cores are no fault of the code
hypothesis.settings.load_profile("untimed")


for _name in ("COLUMNS", "LINES"):
    os.environ.pop(_name, None)  # set where tests run beside each other; output would be cut at 80 columns


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults", "the fault campaign in tests/faults")
    group.addoption("--seed", type=int, action="append", help="run each fault with this seed; can be repeated")
    group.addoption("--times", type=int, default=3, help="repetitions of a fault at random moments")
    group.addoption("--minutes", type=float, default=30.0, help="duration of the random faults, in minutes")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run the test in its own folder, without the settings of the user."""
    for name in ("MLFLOW_TRACKING_URI", "SWEEPER_STORAGE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def own_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the secrets of other tests, which would be masked in the output of this one."""
    monkeypatch.setattr("sweeper.core.secrets._known", set())


@pytest.fixture
def make_sweep(tmp_path: Path) -> Callable[..., Sweep]:
    """Return a function that makes a sweep of `tests.samples:climb`; its arguments replace keys of the sweep."""

    def make(**changes: Any) -> Sweep:
        declared: dict[str, Any] = {
            "name": "climbing",
            "trainable": "tests.samples:climb",
            "objective": {"metric": "score", "direction": "maximize"},
            "budget": {"trials": 6, "epochs": 9},
            "space": {"height": {"type": "float", "low": 0.0, "high": 1.0}},
            "pruner": {"type": "none"},
            "sampler": {"type": "random"},
            "storage": f"sqlite:///{tmp_path / 'sweeper.db'}",
        }
        return Sweep.from_mapping(declared | changes)

    return make
