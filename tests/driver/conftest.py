"""One Ray for the tests of this folder that need no special one, and the head of a cluster without any node."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sweeper.driver.connection.cluster import ray_cluster

# 0.0.0.0 is no loopback address, but it reaches this machine and no other.
REMOTE = "0.0.0.0"
TOKEN = "a" * 32
FAR = (
    "name: far\ntrainable: tests.samples:climb\nobjective: {metric: score}\nbudget: {trials: 1, epochs: 1}\n"
    "space: {height: {type: float, low: 0, high: 1}}\n"
)


class SharedRay:
    """A Ray on this machine that starts at its first use, and again after a test that needed one of its own."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._is_up = False

    def start(self) -> None:
        if not self._is_up:
            self._stack.enter_context(ray_cluster(None))
            self._is_up = True

    def close(self) -> None:
        self._stack.close()
        self._is_up = False


@pytest.fixture(scope="package")
def shared_ray() -> Iterator[SharedRay]:
    shared = SharedRay()
    yield shared
    shared.close()


@pytest.fixture(scope="module")
def any_ray(shared_ray: SharedRay) -> None:
    """Connect the tests of a module to the Ray that they share; each has its own folder and study."""
    shared_ray.start()


@pytest.fixture(scope="module")
def no_ray(shared_ray: SharedRay) -> None:
    """Close the shared Ray, for a module whose tests start their own."""
    shared_ray.close()


@contextmanager
def ray_head(folder: Path, auth_mode: str, host: str = "127.0.0.1") -> Iterator[int]:
    """Start the GCS server of a Ray cluster, which clients contact first; yield its port.

    Args:
        host: its address; it listens on all, except where it is the loopback address.
    """
    import ray

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        str(Path(ray.__file__).parent / "core/src/ray/gcs/gcs_server"),
        f"--log_dir={folder}",
        f"--config_list={base64.b64encode(b'{}').decode()}",
        f"--gcs_server_port={port}",
        f"--node-ip-address={host}",
        "--session-name=session",
        f"--session-dir={folder}",
    ]
    env = os.environ | {"RAY_AUTH_MODE": auth_mode, "RAY_AUTH_TOKEN": TOKEN}
    with (folder / "said").open("wb") as said:
        head = subprocess.Popen(command, env=env, stdout=said, stderr=said)
    try:
        deadline = time.monotonic() + 60
        while not _listens(port):
            assert head.poll() is None and time.monotonic() < deadline, (folder / "said").read_text()
            time.sleep(0.1)
        yield port
    finally:
        head.kill()
        head.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
