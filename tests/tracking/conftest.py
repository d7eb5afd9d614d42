"""An MLflow store for each test, and projections with short waits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.spec import Sweep
from sweeper.tracking.client import connect
from tests.tracking.tools import (
    RecordedStudy,
)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.tracking.projection.POLL_INTERVAL_S", 0.05)
    monkeypatch.setattr("sweeper.tracking.projection.BACKOFF_S", (0.2, 0.5))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path) -> str:
    path = tmp_path / "mlflow.db"
    shutil.copy(empty_store, path)
    return f"sqlite:///{path}"


@pytest.fixture
def study(make_sweep: Callable[..., Sweep]) -> RecordedStudy:
    return RecordedStudy(make_sweep(budget={"trials": 4, "epochs": 3}))
