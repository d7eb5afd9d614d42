from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking._tracking_service import utils

from sweeper.cli.check import doctor
from sweeper.core.trials import Champion
from sweeper.spec import Sweep
from sweeper.tracking import register_champion, sync
from sweeper.tracking.artifact_root import ARTIFACTS, misplaced_roots
from sweeper.tracking.client import connect, default_store
from tests.tracking.tools import RecordedStudy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, in SQLAlchemy


@dataclass
class Project:
    """A folder with a store of MLflow, and the best model of a sweep in it."""

    folder: Path
    study: RecordedStudy

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    def register(self) -> Champion:
        """Deliver the sweep and register its best model, as a run does at its end."""
        utils._artifact_repos_cache.clear()  # MLflow keeps places of files for the life of the process
        sync(self.study, self.uri)
        best = self.study.rows()[0]
        champion = register_champion(self.study, best, {"test_score": 0.9}, self.folder / "champion", self.uri)
        assert champion is not None
        return champion

    def has_champion(self) -> bool:
        """Return whether the champion's files are in this project, found as whoever loads it finds them."""
        import mlflow

        with default_store(self.uri):
            place = Path(mlflow.artifacts.download_artifacts(f"models:/{self.study.sweep.tracking.model}@champion"))
        return place.is_relative_to(self.folder) and (place / "MLmodel").is_file()

    def roots(self) -> list[str]:
        return [
            experiment.artifact_location
            for experiment in connect(self.uri).search_experiments()
            if experiment.name != "Default"
        ]


@pytest.fixture
def project(make_sweep: Callable[..., Sweep], empty_store: Path, tmp_path: Path) -> Project:
    folder = tmp_path / "one"
    (folder / "champion" / "mlflow_model").mkdir(parents=True)
    (folder / "champion" / "mlflow_model" / "MLmodel").write_text("flavors: {}\n")
    shutil.copy(empty_store, folder / "mlflow.db")
    study = RecordedStudy(make_sweep(tracking={"experiment": "tests", "model": tmp_path.name}))
    study.trial(0, 0.5, 0.6)
    made = Project(folder, study)
    made.register()
    return made


def contents(folder: Path) -> dict[Path, float]:
    return {path: path.stat().st_mtime for path in folder.rglob("*")}


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name.startswith("sweeper.tracking")]


def test_moved_project_keeps_its_champion_and_its_new_files(
    project: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = Project(project.folder.rename(tmp_path / "two"), project.study)
    champion = moved.register()
    assert (champion.version, champion.reason) == (1, "as before")
    assert moved.has_champion()
    (warning,) = warnings_of(caplog)
    assert f"in {tmp_path}/one/mlartifacts, which does not exist, not beside its database" in warning
    assert f"from now on files are kept in {tmp_path}/two/mlartifacts." in warning
    assert moved.roots() == [(tmp_path / "two" / ARTIFACTS).as_uri()]
    moved.study.id = "another"
    moved.register()
    assert not (tmp_path / "one").exists() and len(warnings_of(caplog)) == 1
    assert len(list((tmp_path / "two/mlartifacts").glob("*/artifacts/sweep.yaml"))) == 2


def test_copied_project_leaves_the_first_one_as_it_is(project: Project, tmp_path: Path) -> None:
    copy = Project(Path(shutil.copytree(project.folder, tmp_path / "two")), project.study)
    before = contents(project.folder)
    assert copy.register().reason == "as before"
    assert copy.has_champion()
    copy.study.id = "another"
    copy.register()
    assert contents(project.folder) == before
    assert project.has_champion()


def test_champion_whose_files_are_gone_is_registered_anew(project: Project, tmp_path: Path) -> None:
    moved = Project(project.folder.rename(tmp_path / "two"), project.study)
    shutil.rmtree(moved.folder / ARTIFACTS)
    champion = moved.register()
    assert (champion.version, champion.promoted) == (2, True)
    assert champion.reason == "the files of version 1, the champion before, are gone"
    assert moved.has_champion() and not (tmp_path / "one").exists()
    model = connect(moved.uri).get_logged_model(champion.model_id)
    assert {metric.key: metric.value for metric in model.metrics} == {"test_score": 0.9}
    assert moved.register().reason == "as before"


def test_champion_of_another_sweep_without_files_is_replaced_by_a_worse_one(
    project: Project, make_sweep: Callable[..., Sweep]
) -> None:
    shutil.rmtree(project.folder / ARTIFACTS)
    worse = RecordedStudy(make_sweep(name="worse", tracking=project.study.sweep.tracking.model_dump()))
    worse.trial(0, 0.1, 0.2)
    champion = Project(project.folder, worse).register()
    assert (champion.version, champion.promoted, champion.previous) == (2, True, 1)


def test_database_that_was_copied_alone_still_finds_the_files(project: Project, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    shutil.copy(project.folder / "mlflow.db", tmp_path / "two")
    shutil.copytree(project.folder / "champion", tmp_path / "two/champion")
    before = contents(project.folder)
    copy = Project(tmp_path / "two", project.study)
    assert copy.register().reason == "as before"
    copy.study.id = "another"
    copy.register()
    assert contents(project.folder) == before, "new files are beside the copy"


def test_project_reached_through_a_link_is_not_moved(
    project: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "link").symlink_to(project.folder)
    linked = Project(tmp_path / "link", project.study)
    assert linked.register().reason == "as before"
    assert not warnings_of(caplog) and linked.roots() == [(project.folder / ARTIFACTS).as_uri()]


@pytest.mark.parametrize("location", ["s3://bucket/files", "mlflow-artifacts:/1", "large disk"])
def test_folder_that_somebody_chose_is_left_as_it_is(
    empty_store: Path, tmp_path: Path, location: str, caplog: pytest.LogCaptureFixture
) -> None:
    if location == "large disk":
        (tmp_path / location).mkdir()
        location = (tmp_path / location).as_uri()
    (tmp_path / "project").mkdir()
    database = Path(shutil.copy(empty_store, tmp_path / "project" / "mlflow.db"))
    connect(f"sqlite:///{database}").create_experiment("tests", artifact_location=location)
    assert misplaced_roots(database) == []


def start_with(project: Project, location: Path, caplog: pytest.LogCaptureFixture) -> Any:
    """Let a sweep begin in an experiment with this location, twice; return the location then, and the warnings."""
    client = connect(project.uri)
    client.create_experiment("chosen", artifact_location=location.as_uri())
    tracking = project.study.sweep.tracking.model_copy(update={"experiment": "chosen"})
    project.study.sweep = project.study.sweep.model_copy(update={"tracking": tracking})
    before = project.folder.joinpath("mlflow.db").read_bytes()
    (root,) = misplaced_roots(project.folder / "mlflow.db")
    assert project.folder.joinpath("mlflow.db").read_bytes() == before
    for _ in range(2):
        sync(project.study, project.uri)
    experiment = client.get_experiment_by_name("chosen")
    assert experiment is not None and not root.can_be_corrected
    assert experiment.artifact_location == location.as_uri()
    return warnings_of(caplog)


def test_chosen_folder_that_is_gone_is_one_warning_with_advice(
    project: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (warning,) = start_with(project, tmp_path / "disk that is not mounted", caplog)
    assert "which does not exist, not beside its database. Bring the folder back, or choose another" in warning


def test_folder_that_might_be_chosen_is_one_warning_with_advice(
    project: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "elsewhere" / ARTIFACTS).mkdir(parents=True)
    (warning,) = start_with(project, tmp_path / "elsewhere" / ARTIFACTS, caplog)
    assert "If the project was moved, rename that folder, and the next sweep corrects the addresses." in warning


def test_folder_that_cannot_be_looked_at_is_not_taken_for_gone(project: Project, tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    location = (tmp_path / "circle" / ARTIFACTS).as_uri()
    connect(project.uri).create_experiment("chosen", artifact_location=location)
    (root,) = misplaced_roots(project.folder / "mlflow.db")
    assert root.location == location and not root.can_be_corrected


def test_doctor_finds_a_moved_project_until_a_sweep_has_corrected_it(project: Project, tmp_path: Path) -> None:
    moved = Project(project.folder.rename(tmp_path / "two"), project.study)
    store, files = doctor.check_tracking(moved.uri)
    assert store.state == "ok"
    assert (files.name, files.state) == ("mlflow files", "warn")
    assert f"of experiment 'tests' in {tmp_path}/one/mlartifacts, which does not exist" in files.found
    assert files.advice == "the next sweep in this experiment corrects the addresses"
    moved.register()
    assert [check.name for check in doctor.check_tracking(moved.uri)] == ["mlflow"]


def test_doctor_has_no_opinion_about_a_file_that_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"")
    assert [check.name for check in doctor.check_tracking(f"sqlite:///{tmp_path}/mlflow.db")] == ["mlflow"]
    assert [check.name for check in doctor.check_tracking(f"sqlite:///{tmp_path}/none.db")] == ["mlflow"]


def test_store_whose_path_has_a_space_or_an_umlaut_moves_too(project: Project, tmp_path: Path) -> None:
    for name in ("with space", "größe"):
        project = Project(project.folder.rename(tmp_path / name), project.study)
        assert project.register().reason == "as before"
        assert project.has_champion()
