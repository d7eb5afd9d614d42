from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.cli.main import main
from sweeper.core import sweep_folder
from sweeper.core.errors import DatasetError, InputError, SweepBusyError
from sweeper.core.sweep_folder import MARKER, SweepFolder, check_folder, claim_folder
from sweeper.spec import Sweep
from sweeper.study.compatibility import record_start
from sweeper.study.open import open_study

MakeSweep = Callable[..., Sweep]


def begin(sweep: Sweep, folder: Path, *, trials: bool = True) -> str:
    """Claim a folder as a run does, create a trial's folder in it, and return the study's id."""
    with open_study(sweep) as study, claim_folder(SweepFolder(folder), study):
        study.ask()
        study.record_facts({"folder": str(folder)})
        if trials:
            (folder / "trials" / "0000").mkdir(parents=True, exist_ok=True)
        return study.id


def test_study_claims_its_folder_again(make_sweep: MakeSweep, tmp_path: Path) -> None:
    first = begin(make_sweep(), tmp_path / "own")
    assert begin(make_sweep(), tmp_path / "own") == first
    assert json.loads((tmp_path / "own" / MARKER).read_text())["study"] == first


def test_moved_folder_still_belongs_to_its_study(make_sweep: MakeSweep, tmp_path: Path) -> None:
    begin(make_sweep(), tmp_path / "own")
    (tmp_path / "own").rename(tmp_path / "moved")
    begin(make_sweep(), tmp_path / "moved")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "other"}, "it belongs to another study, 'climbing' in sqlite:"),
        ({"storage": "sqlite:///two.db"}, "it belongs to another study, 'climbing' in sqlite:"),
    ],
)
def test_folder_of_another_study_is_refused(
    make_sweep: MakeSweep, tmp_path: Path, changes: dict[str, str], words: str
) -> None:
    begin(make_sweep(), tmp_path / "own")
    before = (tmp_path / "own" / MARKER).read_text()
    with pytest.raises(InputError, match=words):
        begin(make_sweep(**changes), tmp_path / "own")
    assert (tmp_path / "own" / MARKER).read_text() == before


def test_folder_of_a_deleted_database_is_refused(make_sweep: MakeSweep, tmp_path: Path) -> None:
    begin(make_sweep(), tmp_path / "own")
    for file in tmp_path.glob("sweeper.db*"):
        file.unlink()
    with pytest.raises(InputError, match="belongs to an earlier study of that name, which sqlite:.* no longer holds"):
        begin(make_sweep(), tmp_path / "own")


def test_refused_study_leaves_no_marker_in_the_folder(make_sweep: MakeSweep, tmp_path: Path) -> None:
    (tmp_path / "own" / "champion").mkdir(parents=True)
    (tmp_path / "own" / "champion" / "model.keras").touch()
    with pytest.raises(InputError, match="holds the results of a study that is not in sqlite:"):
        begin(make_sweep(), tmp_path / "own")
    assert not (tmp_path / "own" / MARKER).exists()


def test_folder_without_results_has_no_owner(make_sweep: MakeSweep, tmp_path: Path) -> None:
    begin(make_sweep(), tmp_path / "own", trials=False)
    assert begin(make_sweep(name="other"), tmp_path / "own")


@pytest.mark.parametrize("content", ["", "{torn", "[]"])
def test_damaged_marker_is_rewritten_by_its_study(make_sweep: MakeSweep, tmp_path: Path, content: str) -> None:
    first = begin(make_sweep(), tmp_path / "own")
    (tmp_path / "own" / MARKER).write_text(content)
    begin(make_sweep(), tmp_path / "own")
    assert json.loads((tmp_path / "own" / MARKER).read_text())["study"] == first


def test_marker_that_is_a_link_is_refused(make_sweep: MakeSweep, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "own" / MARKER).symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="cannot write to"):
        begin(make_sweep(), tmp_path / "own")
    assert (tmp_path / "precious").read_text() == "mine"


def test_marker_that_is_a_hard_link_is_not_written_to(make_sweep: MakeSweep, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "own" / MARKER).hardlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="is a hard link to another file"):
        begin(make_sweep(), tmp_path / "own")
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_marker_that_is_no_file_is_refused(make_sweep: MakeSweep, tmp_path: Path, make: Callable[[Path], None]) -> None:
    (tmp_path / "own").mkdir()
    make(tmp_path / "own" / MARKER)
    with pytest.raises(InputError):
        begin(make_sweep(), tmp_path / "own")
    with pytest.raises(InputError, match=f"{MARKER} in it is .* choose another folder with --dir"):
        check_folder(tmp_path / "own")


@pytest.mark.parametrize("name", ["trials", "champion", "trials/0000", "trials/0012"])
@pytest.mark.parametrize("target", ["precious", "missing", "/dev/zero"])
def test_link_in_the_place_of_a_folder_is_refused(tmp_path: Path, name: str, target: str) -> None:
    (tmp_path / "precious").mkdir()
    link = tmp_path / "own" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / target)
    with pytest.raises(
        InputError, match=f"own: {name} in it is a link. .* Remove it, or choose another folder with --dir"
    ):
        check_folder(tmp_path / "own")


@pytest.mark.parametrize("name", ["trials", "champion", "trials/0000"])
def test_file_in_the_place_of_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "own" / name).parent.mkdir(parents=True)
    (tmp_path / "own" / name).touch()
    with pytest.raises(InputError, match=f"own: {name} in it is not a folder"):
        check_folder(tmp_path / "own")


def test_folder_of_the_sweep_may_itself_be_a_link(make_sweep: MakeSweep, tmp_path: Path) -> None:
    (tmp_path / "large disk").mkdir()
    (tmp_path / "own").symlink_to(tmp_path / "large disk")
    begin(make_sweep(), tmp_path / "own")
    (tmp_path / "own/trials/.DS_Store").touch()
    check_folder(tmp_path / "own")


def test_run_refuses_links_and_leaves_everything_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious" / "attempt-001-step-00000001").mkdir(parents=True)
    (tmp_path / "sweeps/s/trials").mkdir(parents=True)
    (tmp_path / "sweeps/s/trials/0000").symlink_to(tmp_path / "precious")
    (tmp_path / "s.yaml").write_text(
        "name: s\ndataset: {type: digits}\nbudget: {trials: 1, epochs: 1}\nspace: {units: 4}\n"
    )
    before = sorted(tmp_path.rglob("*"))
    assert main(["run", "s.yaml"]) == 2
    assert "trials/0000 in it is a link" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_what_others_left_at_known_names_is_replaced_and_not_followed(make_sweep: MakeSweep, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    own = tmp_path / "own"
    own.mkdir()
    for name in (".writing-0123abcd", ".replaced-0123abcd", "ray"):
        (own / name).symlink_to(precious)
    (own / "sweep.json").symlink_to(precious / "file")
    (own / "sweep.tmp").symlink_to(precious / "file")
    sweep = make_sweep()
    with open_study(sweep) as study, claim_folder(SweepFolder(own), study):
        assert not (own / "ray").is_symlink()
        record_start(study, sweep, SweepFolder(own), {}, tracking_uri="sqlite:///mlflow.db", forked=None)
    assert [path.name for path in precious.iterdir()] == ["file"] and (precious / "file").read_text() == "mine"
    assert json.loads((own / "sweep.json").read_text())["name"] == "climbing"
    assert not list(own.glob(".writing-*"))


def test_files_of_ray_tune_from_another_run_are_removed(make_sweep: MakeSweep, tmp_path: Path) -> None:
    (tmp_path / "own/ray").mkdir(parents=True)
    (tmp_path / "own/ray/.validate_storage_marker").symlink_to(tmp_path / "precious")
    begin(make_sweep(), tmp_path / "own")
    assert not (tmp_path / "own/ray").exists()


@pytest.mark.parametrize("error", [InputError, DatasetError])
def test_refused_sweep_leaves_no_folder_that_was_made_for_it(
    make_sweep: MakeSweep, tmp_path: Path, error: type[Exception]
) -> None:
    place = SweepFolder(tmp_path / "sweeps" / "own")
    with pytest.raises(error), open_study(make_sweep()) as study, claim_folder(place, study):
        raise error("refused")
    assert not (tmp_path / "sweeps").exists()


def test_refused_sweep_leaves_what_was_there_before(make_sweep: MakeSweep, tmp_path: Path) -> None:
    (tmp_path / "sweeps" / "own").mkdir(parents=True)
    with (
        pytest.raises(InputError),
        open_study(make_sweep()) as study,
        claim_folder(SweepFolder(tmp_path / "sweeps/own"), study),
    ):
        raise InputError("refused")
    assert (tmp_path / "sweeps" / "own").exists()


def test_sweep_with_results_keeps_its_new_folder_when_refused(make_sweep: MakeSweep, tmp_path: Path) -> None:
    with (
        pytest.raises(InputError),
        open_study(make_sweep()) as study,
        claim_folder(SweepFolder(tmp_path / "own"), study),
    ):
        (tmp_path / "own/trials/0000").mkdir(parents=True)
        raise InputError("refused")
    assert (tmp_path / "own" / MARKER).exists() and (tmp_path / "own/trials/0000").exists()


def test_two_copies_of_one_study_cannot_share_a_folder(make_sweep: MakeSweep, tmp_path: Path) -> None:
    begin(make_sweep(), tmp_path / "own")
    shutil.copy(tmp_path / "sweeper.db", tmp_path / "copy.db")
    with open_study(make_sweep()) as study, claim_folder(SweepFolder(tmp_path / "own"), study):
        with pytest.raises(SweepBusyError, match="another process runs a sweep in"):
            begin(make_sweep(storage=f"sqlite:///{tmp_path / 'copy.db'}"), tmp_path / "own")


def test_refused_study_leaves_the_marker_to_one_that_is_claiming(
    make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, place = sweep_folder._claim, SweepFolder(tmp_path / "own")

    def claim_while_another_is_refused(*arguments: Any) -> None:
        with pytest.raises(SweepBusyError), claim_folder(place, other):
            pass
        claim(*arguments)

    other_sweep = make_sweep(storage=f"sqlite:///{tmp_path / 'other.db'}")
    with open_study(make_sweep()) as study, open_study(other_sweep) as other:
        monkeypatch.setattr(sweep_folder, "_claim", claim_while_another_is_refused)
        with claim_folder(place, study):
            assert json.loads((tmp_path / "own" / MARKER).read_text())["study"] == study.id


def test_marker_that_was_removed_before_its_lock_is_created_again(
    make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, marker = sweep_folder._lock, tmp_path / "own" / MARKER
    removals = iter([marker.unlink])

    def lock_after_removal(*arguments: Any) -> None:
        next(removals, lambda: None)()
        lock(*arguments)

    monkeypatch.setattr(sweep_folder, "_lock", lock_after_removal)
    with open_study(make_sweep()) as study, claim_folder(SweepFolder(tmp_path / "own"), study):
        assert json.loads(marker.read_text())["study"] == study.id


def test_lock_of_an_owner_without_a_lease_does_not_count(
    make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(make_sweep(), tmp_path / "own")
    with (tmp_path / "own" / MARKER).open() as suspended, open_study(make_sweep()) as study:
        fcntl.flock(suspended, fcntl.LOCK_EX)
        monkeypatch.setattr(study, "has_displaced_owner", True)
        with claim_folder(SweepFolder(tmp_path / "own"), study):
            pass


def test_remote_folder_belongs_to_one_study_too(make_sweep: MakeSweep, tmp_path: Path) -> None:
    url = f"file://{tmp_path / 'far'}"
    with open_study(make_sweep()) as study, claim_folder(SweepFolder(tmp_path / "near", url), study):
        (tmp_path / "far" / "trials").mkdir()
    with open_study(make_sweep()) as study, claim_folder(SweepFolder(tmp_path / "near", url), study):
        pass
    with (
        pytest.raises(InputError, match="belongs to another study"),
        open_study(make_sweep(name="other")) as study,
        claim_folder(SweepFolder(tmp_path / "other", url), study),
    ):
        pass


def test_run_refuses_the_folder_of_another_sweep(
    tmp_path: Path, make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(make_sweep(), tmp_path / "own")
    (tmp_path / "s.yaml").write_text(
        "name: s\ndataset: {type: digits}\nbudget: {trials: 1, epochs: 1}\nspace: {units: 4}\n"
    )
    assert main(["run", "s.yaml", "--dir", "own"]) == 2
    assert "cannot use" in capsys.readouterr().err


def test_folders_that_killed_workers_left_are_removed_at_the_next_start(make_sweep: MakeSweep, tmp_path: Path) -> None:
    place = SweepFolder(tmp_path / "own")
    begin(make_sweep(), place.path)
    for name in ("work-001/checkpoint", "attempt-001-step-00000001"):
        (place.trial(3) / name).mkdir(parents=True)
    begin(make_sweep(), place.path)
    assert [path.name for path in place.trial(3).iterdir()] == ["attempt-001-step-00000001"]
