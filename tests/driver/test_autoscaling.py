"""A cluster without a worker, whose autoscaler starts nodes on this machine for waiting trials."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from sweeper.driver.capacity import can_autoscale, refuse_infeasible_on_cluster
from sweeper.driver.connection.cluster import ray_cluster
from sweeper.spec import Sweep
from sweeper.study.open import open_study
from tests.runs import run_trials

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("no_ray")]

MARK = "SWEEPER_TEST_AUTOSCALING"
PORT = 6379  # the nodes that Ray starts on this machine use no other

CONFIG: dict[str, Any] = {
    "cluster_name": "tests",
    "provider": {
        "type": "fake_multinode",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "cpu": {
            "resources": {"CPU": 1, "object_store_memory": 80 << 20},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 2,
        },
    },
    "head_node_type": "head",
    "max_workers": 2,
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 5,
    **{key: {} for key in ("auth", "docker", "file_mounts")},
    **{key: [] for key in ("initialization_commands", "setup_commands", "cluster_synced_files", "rsync_exclude")},
    **{f"{kind}_{what}": [] for kind in ("head", "worker") for what in ("setup_commands", "start_ray_commands")},
    "file_mounts_sync_continuously": False,
    "rsync_filter": [],
}


@pytest.fixture
def address(tmp_path: Path, no_ray: None) -> Iterator[str]:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) == 0:
            pytest.skip(f"port {PORT} is taken")
    (tmp_path / "cluster.json").write_text(json.dumps(CONFIG))
    mark, log = uuid4().hex, tmp_path / "head.log"
    intervals = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", "RAY_AUTH_MODE": "disabled", MARK: mark}
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={PORT}", "--num-cpus=0", "--block"]
    ray += ["--include-dashboard=false", "--object-store-memory=80000000", "--autoscaling-config=cluster.json"]
    with log.open("wb") as output:
        head = subprocess.Popen(ray, cwd=tmp_path, env={**os.environ, **intervals}, stdout=output, stderr=output)
    try:
        while "Ray runtime started" not in log.read_text():
            assert head.poll() is None, log.read_text()
            time.sleep(0.2)
        yield f"{socket.gethostbyname(socket.gethostname())}:{PORT}"
    finally:
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == mark:
                    process.kill()
            except psutil.Error:
                continue
        head.wait()


def test_trials_wait_for_the_nodes_that_the_autoscaler_adds(address: str, make_sweep: Callable[..., Sweep]) -> None:
    sweep = make_sweep(trainable="tests.samples:slow_count", budget={"trials": 4, "epochs": 40})
    with ray_cluster(address, sweep.trainable), open_study(sweep) as study:
        deadline = time.monotonic() + 30
        while not can_autoscale():
            assert time.monotonic() < deadline
            time.sleep(0.5)
        refuse_infeasible_on_cluster(sweep)
        most: list[int] = []

        def look() -> bool:
            most.append(sum(row.step > 0 for row in study.running()))
            return False

        run_trials(study, stop_when=look)
        assert [row.state for row in study.rows()] == ["COMPLETE"] * 4
        assert max(most) == 2
