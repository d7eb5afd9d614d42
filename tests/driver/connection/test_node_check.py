"""Inspection of real nodes: Ray's processes of several nodes on this machine, which see different files."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from ray._private.authentication_test_utils import reset_auth_token_state

from sweeper.driver.connection.auth import enable_token_auth
from sweeper.driver.connection.node_check import NodeReport, inspect_nodes

pytestmark = [
    pytest.mark.long,
    pytest.mark.usefixtures("no_ray"),
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="hides files from a process"),
]
Node = Callable[..., None]
FAR = {
    "name": "far",
    "trainable": "tests.samples:climb",
    "objective": {"metric": "score"},
    "budget": {"trials": 2, "epochs": 3},
    "space": {"height": {"type": "float", "low": 0.0, "high": 1.0}},
}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_ray: None) -> Iterator[Node]:
    """Yield a function that starts a node of one cluster; the first is its head."""
    with socket.create_server(("127.0.0.2", 0)) as server:
        address = f"127.0.0.2:{server.getsockname()[1]}"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    enable_token_auth()
    started: list[subprocess.Popen[bytes]] = []

    def start(*before: str, **environment: str) -> None:
        place = len(started) + 2
        where = ["--head", f"--port={address.rpartition(':')[2]}"] if not started else [f"--address={address}"]
        command = [*before, sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        command += [*where, f"--node-ip-address=127.0.0.{place}", "--num-cpus=1", "--object-store-memory=80000000"]
        with (tmp_path / f"{place}.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "--include-dashboard=false"] if not started else command,
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        started.append(process)
        deadline = time.monotonic() + 90
        while b"Ray runtime started" not in (said := (tmp_path / f"{place}.log").read_bytes()):
            assert process.poll() is None and time.monotonic() < deadline, said.decode()
            time.sleep(0.2)
        if len(started) == 1:
            ray.init(address, log_to_driver=False)
        while len(ray.nodes()) < len(started):
            assert time.monotonic() < deadline
            time.sleep(0.2)

    yield start
    ray.shutdown()
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    monkeypatch.undo()
    reset_auth_token_state()


def sweeper(verb: str, address: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sweeper", verb, *arguments, "--address", address, "--dir", str(folder), "--json"]
    source = folder.parent / "source"  # a copy: the tree may have the sweeper.egg-info of an editable install
    for name in ("sweeper", "tests"):  # nodes import them from here, and find their version there first
        if not (source / name).exists():
            shutil.copytree(Path(__file__).parents[3] / name, source / name)
    environment = {**os.environ, "PYTHONPATH": str(source)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


def inspected(folder: Path) -> dict[str, NodeReport]:
    return {found.node: found for found in inspect_nodes(folder)}


def test_nodes_that_cannot_run_the_sweep_are_found(node: Node, tmp_path: Path) -> None:
    shared, other = tmp_path / "shared", tmp_path / "other"
    shared.mkdir()
    for name, number in (("keras", "0.1"), ("sweeper", "0.0.1")):
        (other / f"{name}-{number}.dist-info").mkdir(parents=True)
        (other / f"{name}-{number}.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: {number}\n")
    node()
    node("unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {shared} && exec "$0" "$@"')
    node(PYTHONPATH=f"{other}:{os.environ.get('PYTHONPATH', '')}")
    found = inspected(shared)
    assert (found["127.0.0.2"].faults, found["127.0.0.2"].notes) == ((), ())
    assert found["127.0.0.3"].faults == (f"does not share {shared}",)
    (fault,) = found["127.0.0.4"].faults
    assert fault.startswith("has sweeper 0.0.1; this machine has ")
    (note,) = found["127.0.0.4"].notes
    assert note.startswith("has keras 0.1; this machine has ")
    assert list(shared.iterdir()) == []
    address = ray.get_runtime_context().gcs_address
    states = {check["name"]: check["state"] for check in json.loads(sweeper("doctor", address, shared).stdout)}
    assert [states[f"node 127.0.0.{place}"] for place in (2, 3, 4)] == ["ok", "fail", "fail"]
    (tmp_path / "far.yaml").write_text(json.dumps(FAR))
    refused = sweeper("run", address, shared, "far.yaml")
    assert refused.returncode == 2 and "the cluster cannot run this sweep" in refused.stderr
    assert f"node 127.0.0.3 does not share {shared}" in refused.stderr
