from __future__ import annotations

import pytest

from sweeper.tracking import sync
from sweeper.tracking.content import fit_key, fit_params, fit_tags
from tests.tracking.tools import (
    RecordedStudy,
    assert_equal,
    history,
    trial_runs,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, in SQLAlchemy


@pytest.mark.parametrize("key", ["a?b", "", "/abs", "../up", "a//b", ".", "..", "k" * 251, "é€" * 200, "a\nb", " "])
def test_fitted_names_are_valid_for_mlflow(key: str) -> None:
    from mlflow.utils.validation import _validate_metric_name, _validate_param

    fitted = fit_key(key)
    _validate_metric_name(fitted)
    _validate_param(fitted, "1")
    assert fit_key(fitted) == fitted


def test_text_that_no_database_can_store_is_escaped() -> None:
    assert fit_tags({"a": "x\ud800y\0z", "b": "é\n"}) == {"a": "x\\ud800y\\x00z", "b": "é\n"}


def test_different_names_stay_different_and_valid_ones_stay_unchanged() -> None:
    assert len(fit_params({"a?b": 1, "a!b": 2, "a_b": 3})) == 3
    for good in ("val_accuracy", "a/b", "lr 1", "x.y-z:0"):
        assert fit_key(good) == good


def test_values_beyond_the_limits_are_cut_and_marked(uri: str, study: RecordedStudy) -> None:
    study.begin(0, fine=1, long="x" * 7000, **{"bad?key": 2, "k" * 300: 3})
    study.report(0, 0.5, **{"loss@val": 1.0, "../up": 2.0})
    study.end(0, "FAIL", reason="y" * 9000)
    sync(study, uri)
    run = trial_runs(uri, study)[0]
    assert run.data.params["fine"] == "1"
    assert len(run.data.params["long"]) == 6000
    assert len(run.data.params) == 4 and len(run.data.metrics) == 4  # the epoch is added
    assert len(run.data.tags["sweeper.reason"]) == 8000
    assert run.data.tags["sweeper.truncated"].startswith("long, bad?key, kkk")
    assert "loss@val, ../up" in run.data.tags["sweeper.truncated"]


def test_long_trials_are_written_in_batches(uri: str, study: RecordedStudy) -> None:
    study.begin(0, **{f"p{number}": number for number in range(150)})
    for step in range(350):
        study.report(0, step / 350, **{f"m{number}": 0.0 for number in range(6)})
    study.end(0)
    sync(study, uri)
    assert_equal(uri, study)
    assert len(history(uri, trial_runs(uri, study)[0], "m5")) == 350
