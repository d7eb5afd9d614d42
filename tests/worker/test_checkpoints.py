from __future__ import annotations

import logging
import multiprocessing
import os
import random
import signal
import time
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


def test_the_newest_checkpoint_comes_back_with_its_step_and_metrics(store: CheckpointStore) -> None:
    for step in (1, 2, 10):
        save(store, step)
    latest = store.latest()
    assert latest is not None and (latest.step, latest.metrics) == (10, {"score": 1.0})
    assert (latest.path / "weights").read_text() == "at 10"


def test_there_is_none_before_the_first(store: CheckpointStore) -> None:
    assert store.latest() is None


def test_only_the_newest_two_are_kept(store: CheckpointStore) -> None:
    for step in range(1, 6):
        save(store, step)
    assert sorted(path.name for path in store.folder.iterdir()) == [
        "attempt-001-step-00000004",
        "attempt-001-step-00000005",
    ]


def test_what_a_killed_attempt_left_half_written_goes_with_the_next_checkpoint(store: CheckpointStore) -> None:
    (store.folder / ".writing-0123abcd").mkdir(parents=True)
    save(store, 1)
    assert names_in(store) == ["attempt-001-step-00000001"]


@pytest.mark.parametrize("damage", ["truncate", "empty", "flip", "remove", "no manifest", "bad manifest"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    store: CheckpointStore, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(store, 1)
    folder = save(store, 2)
    weights, manifest = folder / "weights", folder / "manifest.json"
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


def test_a_writer_that_fails_leaves_the_checkpoint_before_and_no_remains(store: CheckpointStore) -> None:
    save(store, 1)

    def fail(folder: Path) -> None:
        (folder / "weights").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.save(2, {}, fail)
    assert names_in(store) == ["attempt-001-step-00000001"]


def test_what_a_killed_process_left_half_written_goes_with_the_next_checkpoint(store: CheckpointStore) -> None:
    save(store, 1)
    (store.folder / ".writing-0badcafe").mkdir()
    save(store, 2)
    assert sorted(path.name for path in store.folder.iterdir()) == [
        "attempt-001-step-00000001",
        "attempt-001-step-00000002",
    ]


def test_a_folder_that_was_removed_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save(CheckpointStore(tmp_path / "trials" / "0000"), 1)
    assert list(tmp_path.iterdir()) == []


def test_the_space_that_checkpoints_take_is_known(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    for number in range(2):
        save(CheckpointStore(tmp_path / "trials" / f"{number:04d}"), 1)
    assert (
        SweepFolder(tmp_path).checkpoint_bytes()
        == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
        > 0
    )


def test_a_step_written_again_replaces_what_was_there(store: CheckpointStore) -> None:
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


def test_a_process_killed_while_it_saves_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
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


def test_an_attempt_that_was_given_up_and_still_writes_is_passed_over(store: CheckpointStore) -> None:
    save(store, 3)
    save(store, 4, attempt=2)
    save(store, 5)
    latest = store.latest()
    assert latest is not None and latest.step == 4
    assert (latest.path / "weights").read_text() == "at 4"


def owned_by(tmp_path: Path, **origin: str) -> CheckpointStore:
    return CheckpointStore(tmp_path / "trial", origin=origin)


def test_a_checkpoint_of_another_study_is_ignored_aloud(tmp_path: Path) -> None:
    for step in (1, 2):
        save(owned_by(tmp_path, study="first"), step)
    store = owned_by(tmp_path, study="second")
    assert store.latest() is None
    assert "checkpoints of another study or trial, ignored: attempt-001-step-00000002 (study first, not" in (
        store.findings()
    )
    save(store, 1)
    latest = store.latest()
    assert latest is not None and latest.step == 1 and not store.findings()


def test_a_checkpoint_of_other_parameters_is_ignored(tmp_path: Path) -> None:
    save(owned_by(tmp_path, study="one", params="a"), 3)
    assert owned_by(tmp_path, study="one", params="b").latest() is None
    assert owned_by(tmp_path, study="one", params="a").latest() is None, "it was renamed, and is out of the way"


def test_a_checkpoint_that_names_no_study_is_used(tmp_path: Path) -> None:
    save(CheckpointStore(tmp_path / "trial"), 3)
    assert owned_by(tmp_path, study="one").latest() is not None


def test_a_checkpoint_beyond_the_record_is_ignored(store: CheckpointStore) -> None:
    for step in (6, 13):
        save(store, step)
    latest = store.latest(recorded=5)
    assert latest is not None and latest.step == 6
    assert store.foreign == ["attempt-001-step-00000013 (of report 13, and 5 are on record)"]


def test_foreign_checkpoints_in_a_remote_folder_are_ignored(tmp_path: Path) -> None:
    remote = RemoteFolder(f"file://{tmp_path / 'far'}")
    first = CheckpointStore(tmp_path / "a" / "trial", remote, origin={"study": "first"})
    first.folder.parent.mkdir()
    save(first, 5)
    second = CheckpointStore(tmp_path / "b" / "trial", remote, origin={"study": "second"})
    assert second.latest() is None and second.foreign
    save(second, 1)
    elsewhere = CheckpointStore(tmp_path / "c" / "trial", remote, origin={"study": "second"})
    latest = elsewhere.latest()
    assert latest is not None and latest.step == 1
