from __future__ import annotations

import logging
import multiprocessing
import os
import random
import shutil
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.core.remote_folder import RemoteFolder
from sweeper.core.sweep_folder import SweepFolder
from sweeper.worker.checkpoints import CheckpointStore


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "trial")


def save(store: CheckpointStore, step: int, attempt: int = 1) -> Path:
    def write(folder: Path) -> None:
        (folder / "weights").write_text(f"at {step}")

    return store.save(step, {"score": step / 10}, write, attempt=attempt)


def names_in(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def test_newest_checkpoint_is_returned_with_its_step_and_metrics(store: CheckpointStore) -> None:
    for step in (1, 2, 10):
        save(store, step)
    latest = store.latest()
    assert latest is not None and (latest.step, latest.metrics) == (10, {"score": 1.0})
    assert (latest.path / "weights").read_text() == "at 10"


def test_new_trial_has_no_checkpoint(store: CheckpointStore) -> None:
    assert store.latest() is None


def test_only_the_newest_two_checkpoints_are_kept(store: CheckpointStore) -> None:
    for step in range(1, 6):
        save(store, step)
    assert sorted(path.name for path in store.folder.iterdir()) == [
        "attempt-001-step-00000004",
        "attempt-001-step-00000005",
    ]


@pytest.mark.parametrize("name", [".writing-0123abcd", ".replaced-0123abcd"])
def test_next_save_deletes_unfinished_folders_of_killed_processes(store: CheckpointStore, name: str) -> None:
    (store.folder / name).mkdir(parents=True)
    save(store, 1)
    assert names_in(store) == ["attempt-001-step-00000001"]


@pytest.mark.parametrize("damage", ["truncate", "empty", "flip", "remove", "no manifest", "bad manifest"])
def test_damaged_checkpoint_is_reported_and_the_one_before_is_used(
    store: CheckpointStore, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(store, 1)
    folder = save(store, 2)
    weights, manifest = folder / "files" / "weights", folder / "manifest"
    match damage:
        case "truncate":
            weights.write_bytes(weights.read_bytes()[:-1])
        case "empty":
            weights.write_bytes(b"")
        case "flip":
            weights.write_bytes(bytes([weights.read_bytes()[0] ^ 1]) + weights.read_bytes()[1:])
        case "remove":
            weights.unlink()
        case "no manifest":
            manifest.unlink()
        case "bad manifest":
            manifest.write_text("{")
    with caplog.at_level(logging.WARNING):
        latest = store.latest()
    assert latest is not None and latest.step == 1
    assert "is damaged" in caplog.text
    assert store.findings().startswith("Checkpoint attempt-001-step-00000002 is damaged (")


def test_failed_save_keeps_the_checkpoint_before_it(store: CheckpointStore) -> None:
    save(store, 1)

    def fail(folder: Path) -> None:
        (folder / "weights").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.save(2, {}, fail)
    assert names_in(store) == ["attempt-001-step-00000001"]


def test_removed_sweep_folder_is_not_created_again(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save(CheckpointStore(tmp_path / "trials" / "0000"), 1)
    assert list(tmp_path.iterdir()) == []


def test_sweep_folder_knows_the_bytes_of_its_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    for number in range(2):
        save(CheckpointStore(tmp_path / "trials" / f"{number:04d}"), 1)
    assert (
        SweepFolder(tmp_path).checkpoint_bytes()
        == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
        > 0
    )


def test_step_that_is_saved_again_replaces_its_checkpoint(store: CheckpointStore) -> None:
    save(store, 1)
    store.save(1, {"score": 0.5}, lambda folder: (folder / "weights").write_text("again") and None)
    latest = store.latest()
    assert latest is not None and (latest.path / "weights").read_text() == "again"


def keep_saving(folder: str) -> None:
    store, step = CheckpointStore(Path(folder)), 0

    def write(at: Path) -> None:
        (at / "weights").write_bytes(b"%d" % step * 50_000)

    while True:
        step += 1
        store.save(step, {"score": float(step)}, write)


def test_process_killed_while_it_saves_leaves_a_complete_checkpoint(tmp_path: Path) -> None:
    context, rng = multiprocessing.get_context("spawn"), random.Random(0)
    for round_ in range(10):
        folder = tmp_path / str(round_)
        process = context.Process(target=keep_saving, args=(str(folder),))
        process.start()
        deadline = time.monotonic() + 20
        while not list(folder.glob("attempt-*")) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        latest = CheckpointStore(folder).latest()
        assert latest is not None
        assert (latest.path / "weights").read_bytes() == b"%d" % latest.step * 50_000


def test_lost_attempt_that_still_writes_is_ignored(store: CheckpointStore) -> None:
    save(store, 3)
    save(store, 4, attempt=2)
    save(store, 5)
    latest = store.latest()
    assert latest is not None and latest.step == 4
    assert (latest.path / "weights").read_text() == "at 4"


def owned_by(tmp_path: Path, **origin: str) -> CheckpointStore:
    return CheckpointStore(tmp_path / "trial", origin=origin)


def test_checkpoint_of_another_study_is_reported_and_ignored(tmp_path: Path) -> None:
    for step in (1, 2):
        save(owned_by(tmp_path, study="first"), step)
    store = owned_by(tmp_path, study="second")
    assert store.latest() is None
    ignored = "Checkpoint attempt-001-step-00000002 belongs to another study or trial and is ignored"
    assert f"{ignored} (its study is first, not second)." in store.findings()
    save(store, 1)
    latest = store.latest()
    assert latest is not None and latest.step == 1 and not store.findings()


def test_checkpoint_of_other_parameters_is_ignored(tmp_path: Path) -> None:
    save(owned_by(tmp_path, study="one", params="a"), 3)
    assert owned_by(tmp_path, study="one", params="b").latest() is None
    assert owned_by(tmp_path, study="one", params="a").latest() is None, "it was renamed"


def test_checkpoint_without_an_origin_is_used(tmp_path: Path) -> None:
    save(CheckpointStore(tmp_path / "trial"), 3)
    assert owned_by(tmp_path, study="one").latest() is not None


def test_checkpoint_ahead_of_the_recorded_reports_is_ignored(store: CheckpointStore) -> None:
    for step in (6, 13):
        save(store, step)
    latest = store.latest(recorded=5)
    assert latest is not None and latest.step == 6
    assert [text.partition("ignored ")[2] for text in store.foreign] == [
        "(it is of report 13, but only 5 are recorded)."
    ]


def test_foreign_checkpoints_in_a_remote_folder_are_ignored(tmp_path: Path) -> None:
    remote = RemoteFolder(f"file://{tmp_path / 'remote'}")
    first = CheckpointStore(tmp_path / "a" / "trial", remote, origin={"study": "first"})
    first.folder.parent.mkdir()
    save(first, 5)
    second = CheckpointStore(tmp_path / "b" / "trial", remote, origin={"study": "second"})
    assert second.latest() is None and second.foreign
    save(second, 1)
    third = CheckpointStore(tmp_path / "c" / "trial", remote, origin={"study": "second"})
    latest = third.latest()
    assert latest is not None and latest.step == 1


def test_store_knows_whether_there_is_a_checkpoint_here_or_far(tmp_path: Path) -> None:
    remote = RemoteFolder(f"file://{tmp_path / 'remote'}")
    (tmp_path / "a").mkdir()
    store, elsewhere = (CheckpointStore(tmp_path / name / "trial", remote) for name in ("a", "b"))
    assert not store.has_any() and not elsewhere.has_any()
    store.save(1, {}, lambda folder: None)
    assert store.has_any() and elsewhere.has_any()
    store.clear()
    assert not store.has_any() and not elsewhere.has_any()


def test_checkpoint_is_a_tree_with_any_names(store: CheckpointStore) -> None:
    names = ["manifest.json", "manifest", "files", "variables/manifest.json", "a/b/größe 学", ".hidden"]

    def write(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)

    for step in (1, 2, 3):
        store.save(step, {}, write)
    latest = store.latest()
    assert latest is not None and latest.step == 3 and not store.findings()
    assert {name: (latest.path / name).read_text() for name in names} == {name: name for name in names}
    (latest.path / "a/b/größe 学").write_text("changed")
    latest = store.latest()
    assert latest is not None and latest.step == 2
    assert "wrong sha256: a/b/größe 学" in store.findings()


def test_trainable_may_replace_its_folder_by_a_renamed_one(store: CheckpointStore, tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "weights").touch()
        folder.rmdir()
        (tmp_path / "made").rename(folder)

    store.save(1, {}, write)
    latest = store.latest()
    assert latest is not None and (latest.path / "weights").exists()


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/etc/hostname"), os.mkfifo])
def test_checkpoint_with_a_link_or_a_pipe_is_not_saved(store: CheckpointStore, make: Callable[[Path], None]) -> None:
    with pytest.raises(OSError, match="Not a regular file"):
        store.save(1, {}, lambda folder: make(folder / "weights"))
    assert names_in(store) == []


def test_file_whose_name_is_not_utf8_is_refused_when_saved(store: CheckpointStore) -> None:
    with pytest.raises(ValueError, match="utf-8"):
        store.save(1, {}, lambda folder: (folder / os.fsdecode(b"caf\xe9")).touch())
    assert names_in(store) == []


def link_in_the_files(folder: Path) -> None:
    (folder / "files/weights").unlink()
    (folder / "files/weights").symlink_to("/dev/zero")


def link_of_the_files(folder: Path) -> None:
    shutil.copytree(folder / "files", folder.parent.parent / "elsewhere")
    shutil.rmtree(folder / "files")
    (folder / "files").symlink_to(folder.parent.parent / "elsewhere")


def link_of_the_manifest(folder: Path) -> None:
    (folder / "manifest").unlink()
    (folder / "manifest").symlink_to("/dev/zero")


def pipe_as_manifest(folder: Path) -> None:
    (folder / "manifest").unlink()
    os.mkfifo(folder / "manifest")


def socket_as_file(folder: Path) -> None:
    (folder / "files/weights").unlink()
    os.mknod(folder / "files/weights", stat.S_IFSOCK)


def endless_manifest(folder: Path) -> None:
    os.truncate(folder / "manifest", 1 << 40)


def folder_as_manifest(folder: Path) -> None:
    (folder / "manifest").unlink()
    (folder / "manifest").mkdir()


def link_of_the_checkpoint(folder: Path) -> None:
    folder.rename(folder.parent.parent / "elsewhere")
    folder.symlink_to(folder.parent.parent / "elsewhere")


def file_as_checkpoint(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.touch()


def manifest_of_the_step_before(folder: Path) -> None:
    shutil.copy(folder.with_name("attempt-001-step-00000001") / "manifest", folder / "manifest")


def old_manifest_beside(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"step": 2, "attempt": 1, "metrics": {}, "sha256": {"/dev/zero": ""}}')


@pytest.mark.parametrize(
    "damage",
    [
        link_in_the_files,
        link_of_the_files,
        link_of_the_manifest,
        pipe_as_manifest,
        socket_as_file,
        endless_manifest,
        folder_as_manifest,
        link_of_the_checkpoint,
        file_as_checkpoint,
        manifest_of_the_step_before,
        old_manifest_beside,
    ],
)
def test_strange_things_in_a_checkpoint_count_as_damage(store: CheckpointStore, damage: Callable[[Path], None]) -> None:
    save(store, 1)
    damage(save(store, 2))
    latest = store.latest()
    assert latest is not None and latest.step == 1
    assert store.findings().startswith("Checkpoint attempt-001-step-00000002 is damaged (")


def test_renamed_checkpoint_is_not_taken_for_a_later_step(store: CheckpointStore) -> None:
    save(store, 1)
    save(store, 5).rename(store.folder / "attempt-001-step-00000013")
    latest = store.latest()
    assert latest is not None and latest.step == 1
    assert "its manifest is that of attempt-001-step-00000005" in store.findings()


def test_thousandth_attempt_is_newer_than_the_one_before(store: CheckpointStore) -> None:
    save(store, 7, attempt=999)
    save(store, 8, attempt=1000)
    latest = store.latest()
    assert latest is not None and latest.step == 8


def test_damaged_checkpoints_of_later_names_cost_no_good_one(store: CheckpointStore) -> None:
    for step in (98, 99):
        (store.folder / f"attempt-999-step-{step:08d}").mkdir(parents=True)
    for step in (1, 2, 3):
        save(store, step)
    latest = store.latest()
    assert latest is not None and latest.step == 3 and len(store.damaged) == 2
    (store.folder / "attempt-001-step-00000003/files/weights").write_text("damaged")
    latest = store.latest()
    assert latest is not None and latest.step == 2


def test_links_are_removed_and_never_followed(store: CheckpointStore, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    store.folder.mkdir()
    for name in ("attempt-000-step-00000001", ".writing-0123abcd", ".replaced-0123abcd"):
        (store.folder / name).symlink_to(precious)
    for step in (1, 2):
        save(store, step)
    assert names_in(store) == ["attempt-001-step-00000001", "attempt-001-step-00000002"]
    assert [path.name for path in precious.iterdir()] == ["file"]


def test_trial_folder_that_is_a_link_is_left_alone(tmp_path: Path) -> None:
    elsewhere = CheckpointStore(tmp_path / "elsewhere")
    save(elsewhere, 1)
    (elsewhere.folder / ".writing-0123abcd").mkdir()
    (tmp_path / "trial").symlink_to(elsewhere.folder)
    store = CheckpointStore(tmp_path / "trial")
    assert store.latest() is None
    with pytest.raises(NotADirectoryError):
        save(store, 2)
    store.clear()
    assert names_in(elsewhere) == [".writing-0123abcd", "attempt-001-step-00000001"]


def test_size_of_checkpoints_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    folder = save(CheckpointStore(tmp_path / "trials/0000"), 1)
    before = SweepFolder(tmp_path).checkpoint_bytes()
    (folder / "dangling").symlink_to("/nowhere/at/all")
    (folder / "files/loop").symlink_to(folder)
    assert 0 < before <= SweepFolder(tmp_path).checkpoint_bytes() < before + 1000
