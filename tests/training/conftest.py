"""Fixtures of the training tests: TensorFlow on one thread, and trials on a few of scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.core.trials import Report
from sweeper.datasets.catalog import Digits
from sweeper.search.budget import Budget
from sweeper.spec import TrialResources
from sweeper.worker.checkpoints import CheckpointStore
from sweeper.worker.trial import Trial

FEW = Digits(train=96, validation=32, test=32)


class RecordedTrial(Trial):
    """A trial that keeps its reports.

    Args:
        ahead: calls in which the trial trains on before each report is answered.
    """

    def __init__(self, folder: Path, *, dataset: Any = FEW, seed: int = 7, ahead: int = 0, **budget: Any) -> None:
        self.sent: list[Report] = []
        self.ahead = ahead
        self.checkpoints = CheckpointStore(folder)
        super().__init__(
            number=0,
            seed=seed,
            budget=Budget(trials=1, **(budget or {"epochs": 3})),
            objective="val_accuracy",
            dataset=dataset,
            resources=TrialResources(),
            checkpoints=self.checkpoints,
            send=self._keep,
        )

    def _keep(self, report: Report, meanwhile: Callable[[], bool] | None) -> None:
        self.sent.append(report)
        for _ in range(self.ahead):
            assert meanwhile is not None
            if not meanwhile():
                break

    @property
    def metrics(self) -> list[dict[str, float]]:
        return [report.metrics for report in self.sent]


@pytest.fixture
def make_trial(tmp_path: Path) -> Callable[..., RecordedTrial]:
    def make(folder: str = "trial", **options: Any) -> RecordedTrial:
        return RecordedTrial(tmp_path / folder, **options)

    return make


@pytest.fixture
def tensorflow() -> Any:
    from sweeper.training.engine import runtime

    runtime.start_backend(1)
    import tensorflow

    return tensorflow
