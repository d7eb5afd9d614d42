"""A sweep's folder at a URL, shared by nodes without a common disk."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from sweeper.core import remote_folder
from sweeper.core.errors import InputError, SweeperError
from sweeper.core.remote_folder import RemoteFolder
from sweeper.core.sweep_folder import SweepFolder
from sweeper.study.open import read_study
from sweeper.worker.checkpoints import CheckpointStore
from tests.environments import ROOT, beside

SPACE = {
    "name": "far",
    "dataset": {"type": "digits"},
    "budget": {"trials": 3, "epochs": 40},
    "space": {"cell": "gru", "units": {"type": "int", "low": 4, "high": 12}, "batch_size": 64, "learning_rate": 0.003},
    "pruner": {"type": "none"},
    "tracking": {"model": "far"},
}


def steps(storage: str) -> int:
    try:
        return sum(row.step for row in read_study("far", storage).rows())
    except SweeperError:  # the study does not exist yet
        return 0


def save(store: CheckpointStore, step: int, *, attempt: int = 1) -> None:
    store.save(step, {"score": float(step)}, lambda folder: (folder / "value").write_text(str(step)), attempt=attempt)


@pytest.fixture
def shared(tmp_path: Path) -> RemoteFolder:
    return RemoteFolder(f"file://{tmp_path / 'far'}")


def test_trial_resumes_from_a_checkpoint_of_another_node(shared: RemoteFolder, tmp_path: Path) -> None:
    here, there = (CheckpointStore(tmp_path / node / "0007", shared) for node in ("here", "there"))
    for node in ("here", "there"):
        (tmp_path / node).mkdir()
    for step in (1, 2, 3):
        save(here, step)
    latest = there.latest()
    assert latest is not None and (latest.step, (latest.path / "value").read_text()) == (3, "3")
    save(there, 4, attempt=2)
    assert sorted(shared.list_folders("trials/0007")) == ["attempt-001-step-00000003", "attempt-002-step-00000004"]
    again = here.latest()
    assert again is not None and again.step == 4


def test_partly_copied_checkpoint_is_skipped(shared: RemoteFolder, tmp_path: Path) -> None:
    for node in ("here", "there"):
        (tmp_path / node).mkdir()
    here, there = (CheckpointStore(tmp_path / node / "0007", shared) for node in ("here", "there"))
    save(here, 1)
    save(here, 2)
    (tmp_path / "far/trials/0007/attempt-001-step-00000002/files/value").unlink()
    latest = there.latest()
    assert latest is not None and latest.step == 1 and "step-00000002" in there.damaged[0]


def test_key_that_leads_out_of_its_checkpoint_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.core.remote_folder._PROCESS_LOCAL", set())
    remote = RemoteFolder(f"memory://{uuid4().hex}")
    near = CheckpointStore(tmp_path / "here" / "0007", remote)
    (tmp_path / "here").mkdir()
    save(near, 1)
    name = f"{remote._root}/trials/0007/attempt-001-step-00000002/../../../evil"
    MemoryFileSystem.store[name] = MemoryFile(None, name, b"evil")
    MemoryFileSystem.pseudo_dirs.append(f"{remote._root}/trials/0007/attempt-001-step-00000002")
    far = CheckpointStore(tmp_path / "there" / "0007", remote)
    latest = far.latest()
    assert latest is not None and latest.step == 1
    assert "attempt-001-step-00000002 is damaged (memory://" in far.findings()
    assert not [path for path in tmp_path.rglob("evil")]


def test_links_and_pipes_of_a_remote_folder_are_not_copied(shared: RemoteFolder, tmp_path: Path) -> None:
    (tmp_path / "far/champion").mkdir(parents=True)
    (tmp_path / "far/champion/endless").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "far/champion/pipe")
    (tmp_path / "far/champion/file").touch()
    shared.get("champion", tmp_path / "near")
    assert [path.name for path in (tmp_path / "near").iterdir()] == ["file"]


def test_no_more_of_a_remote_marker_is_read_than_asked_for(shared: RemoteFolder) -> None:
    shared.write("study.json", b"x" * 100_000)
    assert shared.read("study.json", 10) == b"x" * 10
    assert shared.read("missing", 10) is None


def test_cleared_checkpoints_are_gone_in_both_places(shared: RemoteFolder, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "0007", shared)
    save(store, 1)
    store.clear()
    assert shared.list_folders("trials") == [] and store.latest() is None
    store.clear()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nowhere://x/y", r"cannot open nowhere://x/y \(.*nowhere.*\); install the fsspec package for it, or .* --dir"),
        ("file://host/x", "--dir file://host/x is no folder that nodes share: .* Write file:///data/sweeps with three"),
        ("local://host/x", "--dir local://host/x is no folder that nodes share"),
        ("memory://x", "--dir memory://x is no folder that nodes share"),
        ("simplecache::file://host/x", "--dir simplecache::file://host/x is no folder that nodes share"),
        ("http://127.0.0.1:1/x", r"cannot write to http://127.0.0.1:1/x \(.*\); choose another folder with --dir"),
        ("file:///proc/nothing/here", r"cannot write to file:///proc/nothing/here \(.*\); choose .* with --dir"),
    ],
)
def test_folder_that_cannot_be_used_is_refused(url: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        RemoteFolder(url).check()


def test_failed_transfer_is_retried(shared: RemoteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_folder, "RETRY_DELAYS_S", (0.0, 0.0))
    tries = []

    def flaky() -> str:
        tries.append(None)
        if len(tries) < 3:
            raise OSError("connection reset")
        return "there"

    assert shared._with_retries(flaky) == "there"


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start a server with the S3 API, and return the URL of a folder on it."""
    python = beside("s3", "moto[server]>=5", on_top=False)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    own = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "ada",
        "AWS_SECRET_ACCESS_KEY": "lovelace",
        "AWS_REGION": "us-east-1",
    }
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    with (tmp_path / "s3.log").open("wb") as log:
        server = subprocess.Popen([python, "-m", "moto.server", "-p", str(port)], stdout=log, stderr=log)
    make = f"import boto3; boto3.client('s3', endpoint_url='http://127.0.0.1:{port}').create_bucket(Bucket='lab')"
    deadline = time.monotonic() + 60
    while subprocess.run([python, "-c", make], capture_output=True, env={**os.environ, **own}).returncode:
        assert server.poll() is None and time.monotonic() < deadline
        time.sleep(0.5)
    url = f"s3://lab/{uuid4().hex[:8]}/far"  # a node keeps its copies by URL, beyond the life of this server
    yield url
    shutil.rmtree(SweepFolder.of(url, "far").path, ignore_errors=True)
    server.kill()
    server.wait()


@pytest.mark.long
def test_sweep_in_s3_resumes_on_a_machine_without_its_files(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "far.yaml").write_text(json.dumps(SPACE))
    command = [sys.executable, "-m", "sweeper", "run", "far.yaml", "--dir", bucket, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    storage, deadline = f"sqlite:///{tmp_path / 'sweeper.db'}", time.monotonic() + 120
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while steps(storage) < 5 or not RemoteFolder(bucket).list_folders("trials"):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    first.kill()
    first.wait()
    shutil.rmtree(SweepFolder.of(bucket, "far").path)  # as on another machine
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["counts"] == {"COMPLETE": 3} and result["folder"] == bucket
    assert result["champion"] is not None and result["champion"]["promoted"], done.stderr
    study = read_study("far", storage)
    assert any(attempt.step > 0 for row in study.rows() for attempt in study.attempts().get(row.number, ()))
    assert [[report.step for report in study.reports(n)] for n in range(3)] == [list(range(1, 41))] * 3
    assert len(RemoteFolder(bucket).list_folders("trials")) == 1
    assert RemoteFolder(bucket).list_folders() == ["champion", "trials"]
