"""The report on a sweep among the artifacts of its run."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.core.errors import TrackingError
from sweeper.tracking import log_report, sync
from sweeper.tracking.client import connect
from tests.tracking.tools import RecordedStudy, four_trials, sweep_run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, in SQLAlchemy


def test_report_is_an_artifact_of_the_run_of_the_sweep(uri: str, study: RecordedStudy) -> None:
    four_trials(study)
    with pytest.raises(TrackingError, match="does not have sweep"):
        log_report(study, uri, lambda: "page", replace=True)
    sync(study, uri)
    assert log_report(study, uri, lambda: "one", replace=False)
    assert not log_report(study, uri, pytest.fail, replace=False)  # type: ignore[arg-type]
    assert log_report(study, uri, lambda: "two", replace=True)
    client, run = connect(uri), sweep_run(uri, study).info.run_id
    assert sorted(file.path for file in client.list_artifacts(run)) == ["report.html", "sweep.yaml"]
    assert Path(client.download_artifacts(run, "report.html")).read_text() == "two"
