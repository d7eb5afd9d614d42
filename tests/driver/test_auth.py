from __future__ import annotations

import base64
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sweeper.cli.main import main
from sweeper.core.errors import InputError
from sweeper.driver.auth import refuse_open_cluster

# 0.0.0.0 is no loopback address, but it reaches this machine and no other.
REMOTE = "0.0.0.0"


@contextmanager
def ray_head(folder: Path, auth_mode: str) -> Iterator[int]:
    """Start the GCS server of a Ray cluster, which clients contact first; yield its port."""
    import ray

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        str(Path(ray.__file__).parent / "core/src/ray/gcs/gcs_server"),
        f"--log_dir={folder}",
        f"--config_list={base64.b64encode(b'{}').decode()}",
        f"--gcs_server_port={port}",
        "--node-ip-address=127.0.0.1",
        "--session-name=session",
        f"--session-dir={folder}",
    ]
    env = os.environ | {"RAY_AUTH_MODE": auth_mode, "RAY_AUTH_TOKEN": "a" * 32}
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


def test_open_cluster_is_refused_before_anything_is_created(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "far.yaml").write_text(
        "name: far\ntrainable: tests.samples:climb\nobjective: {metric: score}\nbudget: {trials: 1, epochs: 1}\n"
        "space: {height: {type: float, low: 0, high: 1}}\n"
    )
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # a setting of the client does not close the cluster
    (tmp_path / "head").mkdir()
    with ray_head(tmp_path / "head", "disabled") as port:
        assert main(["run", "far.yaml", "--address", f"{REMOTE}:{port}"]) == 2
        with pytest.raises(InputError, match="--insecure"):
            refuse_open_cluster(f"ray://{REMOTE}:{port}")
        refuse_open_cluster(f"127.0.0.1:{port}")
    assert "accepts requests without a token" in capsys.readouterr().err
    assert not (tmp_path / "sweeps").exists() and not (tmp_path / "sweeper.db").exists()


def test_cluster_that_requires_a_token_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ray_head(tmp_path, "token") as port:
        monkeypatch.setenv("RAY_ADDRESS", f"{REMOTE}:{port}")
        refuse_open_cluster(None)


def test_unreachable_cluster_is_left_to_ray_to_explain() -> None:
    refuse_open_cluster(f"{REMOTE}:9")
    refuse_open_cluster("no-such-host.invalid:6379")
    refuse_open_cluster("local")
