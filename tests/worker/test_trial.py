from __future__ import annotations

import doctest
import errno
import inspect
import math
import re
from pathlib import Path
from typing import Any

import pytest

from sweeper import Trial
from sweeper.core.errors import TrialDivergedError, TrialStopped
from sweeper.core.trials import Report
from sweeper.search.budget import Budget
from sweeper.spec import TrialResources
from sweeper.worker import trial as trials
from sweeper.worker.checkpoints import CheckpointStore


class Driver:
    """The driver's side of a trial: it keeps reports and notices."""

    def __init__(self, folder: Path) -> None:
        self.checkpoints = CheckpointStore(folder)
        self.reports: list[Report] = []
        self.notices: list[str] = []

    def trial(self) -> Trial:
        return Trial(
            number=0,
            seed=1,
            budget=Budget(trials=1, epochs=3),
            objective="loss",
            dataset=None,
            resources=TrialResources(),
            checkpoints=self.checkpoints,
            send=lambda report, meanwhile: self.reports.append(report),
            notify=self.notices.append,
        )


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    return Driver(tmp_path / "trial")


def test_example_of_the_docstring_gives_what_it_prints(driver: Driver) -> None:
    test = doctest.DocTestParser().get_doctest(
        inspect.getdoc(Trial) or "", {"trial": driver.trial()}, "Trial", None, None
    )
    result = doctest.DocTestRunner().run(test)
    assert (result.failed, result.attempted) == (0, 4)
    assert [report.metrics for report in driver.reports] == [{"loss": 0.5}, {"loss": 0.25}, {"loss": 0.125}]


def test_docstring_describes_every_attribute(driver: Driver) -> None:
    text = inspect.getdoc(Trial) or ""
    names = {name for name in (*vars(driver.trial()), "data") if not name.startswith("_")}
    assert all(f"\n    {name}: " in text for name in names)


def test_resumed_trial_starts_at_its_checkpoint(driver: Driver) -> None:
    driver.trial().report({"loss": 1.0}, checkpoint=lambda folder: (folder / "weight").touch())
    resumed = driver.trial()
    resumed.resume()
    assert resumed.step == 1 and resumed.checkpoint is not None
    assert [report.step for report in driver.reports] == [1, 1]
    assert driver.notices == []


def test_metrics_are_given_as_a_dict_as_keywords_or_both(driver: Driver) -> None:
    trial = driver.trial()
    trial.report({"loss": 1.0})
    trial.report(loss=0.5)
    trial.report({"val/loss": 2}, loss=0.25)
    found = [{"loss": 1.0}, {"loss": 0.5}, {"val/loss": 2.0, "loss": 0.25}]
    assert [report.metrics for report in driver.reports] == found


def test_nan_raises_with_its_epoch(driver: Driver) -> None:
    trial = driver.trial()
    trial.report({"loss": 1.0})
    with pytest.raises(TrialDivergedError, match=r"diverged \(loss=nan at epoch 2\)"):
        trial.report({"loss": float("nan")})


def test_other_metric_that_is_not_finite_is_left_out_with_one_note(driver: Driver) -> None:
    trial = driver.trial()
    for _ in range(2):
        trial.report({"loss": 0.5, "auc": math.nan, "gap": -math.inf})
    assert [report.metrics for report in driver.reports] == [{"loss": 0.5}, {"loss": 0.5}]
    assert driver.notices == ["A metric that is not finite is left out (auc=nan, gap=-inf at epoch 1)."]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (None, "report takes a dict of numbers by name, not NoneType"),
        (0.5, "report takes a dict of numbers by name, not float: 0.5"),
        ([("loss", 1.0)], "report takes a dict of numbers by name, not list"),
        ({"loss": 1.0, "extra": None}, "metric 'extra' is not a number: None"),
        ({"loss": 10**400}, "metric 'loss' is too large for a floating-point number"),
    ],
)
def test_wrong_report_says_what_is_wrong_with_it(driver: Driver, metrics: Any, message: str) -> None:
    with pytest.raises((TypeError, OverflowError), match=re.escape(message)):
        driver.trial().report(metrics)
    assert driver.reports == []


def test_trial_waits_while_the_disk_is_full(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "_DISK_POLL_INTERVAL_S", 0.0)

    def write(folder: Path) -> None:
        if not driver.notices:
            raise OSError(errno.ENOSPC, "No space left on device")

    driver.trial().report({"loss": 1.0}, checkpoint=write)
    assert len(driver.notices) == 1 and "cannot save its checkpoint (disk full" in driver.notices[0].lower()
    assert [report.step for report in driver.reports] == [1]


def test_metric_whose_name_holds_a_secret_is_refused(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "canary-token")
    for name in ("canary-token", "loss/canary-token", "http://ada:other-canary@host"):
        with pytest.raises(ValueError, match=r"holds a secret: '[^']*\*\*\*[^']*'; use another name") as caught:
            driver.trial().report({"loss": 1.0, name: 1.0})
        assert "canary" not in str(caught.value)
    assert driver.reports == []


def test_start_of_a_long_name_is_masked_before_it_is_cut(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "canary-" * 50)
    with pytest.raises(ValueError, match=r"has 350 characters \('\*\*\*'\.\.\.\)"):
        driver.trial().report({"loss": 1.0, "canary-" * 50: 1.0})


def test_saved_model_is_an_mlflow_model_with_pinned_requirements(driver: Driver) -> None:
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    trial, x = driver.trial(), np.array([[0.0], [1.0]])
    trial.report({"loss": 0.5})
    for target in ([1, 0], [0, 1]):
        trial.save_model(LogisticRegression().fit(x, target), example=x)
    assert trial.model == driver.checkpoints.models.latest().path  # type: ignore[union-attr]
    needs = (trial.model / "requirements.txt").read_text().split()
    assert [need.split("==")[0] for need in needs] == ["mlflow", "scikit-learn", "scipy", "numpy", "skops"]
    assert [path.name for path in trial.model.parents[1].iterdir()] == ["attempt-001-step-00000001"]


def test_model_can_be_saved_before_the_first_report(driver: Driver, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_text("weights")
    trial = driver.trial()
    trial.save_model(tmp_path / "weights.bin")
    assert trial.model is not None and (trial.model / "files/weights.bin").read_text() == "weights"


def test_stopped_trial_saves_no_model(driver: Driver, tmp_path: Path) -> None:
    trial = driver.trial()

    def stop(report: Report, meanwhile: object) -> None:
        raise TrialStopped

    trial._send = stop
    with pytest.raises(TrialStopped):
        trial.report({"loss": 0.5})
    with pytest.raises(TrialStopped):
        trial.save_model(tmp_path)
    assert not driver.checkpoints.folder.exists()


def test_deleted_checkpoints_take_the_model_with_them(driver: Driver, tmp_path: Path) -> None:
    trial = driver.trial()
    trial.report({"loss": 0.5}, checkpoint=lambda folder: (folder / "weight").touch())
    trial.save_model(_folder(tmp_path / "plain"))
    driver.checkpoints.clear()
    assert not driver.checkpoints.folder.exists()


def _folder(path: Path) -> Path:
    path.mkdir()
    (path / "weights").touch()
    return path
