"""The seven steps of k8s/README.md on a live cluster."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from tests.k8s.live.cluster import Cluster, Object
from tests.k8s.live.sweeps import SMALL, LiveSweep
from tests.k8s.live.test_waiting import changed_rayjob

pytestmark = [pytest.mark.k8s, pytest.mark.timeout(1800)]

Make = Callable[..., LiveSweep]
Record = Callable[[str, float | None, str], None]


def seconds_between(status: Object, first: str, last: str) -> float:
    moments = [datetime.fromisoformat(status[key].replace("Z", "+00:00")) for key in (first, last)]
    return (moments[1] - moments[0]).total_seconds()


def test_first_sweep_of_the_manifests_succeeds(first_sweep: LiveSweep, record: Record) -> None:
    status = first_sweep.wait_for_state("Complete", "Failed")
    assert status["jobDeploymentStatus"] == "Complete", first_sweep.cluster.explain()
    first_sweep.check_whole()
    rows = first_sweep.progress()["rows"]
    assert len(rows) == 8 and {row["state"] for row in rows} <= {"COMPLETE", "PRUNED"}
    record("the first sweep", seconds_between(status, "startTime", "endTime"), f"{len(rows)} trials, seconds in all")


def test_mlflow_ui_is_reached_through_a_port_forward(cluster: Cluster, first_sweep: LiveSweep) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["kubectl", "--namespace", cluster.namespace, "port-forward", "service/mlflow", f"{port}:5000"]
    forward = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:

        def page() -> str:
            try:
                with urllib.request.urlopen(f"http://localhost:{port}/", timeout=10) as response:
                    return str(response.read().decode())
            except (urllib.error.URLError, OSError):
                return ""

        assert "<title>MLflow</title>" in cluster.wait_for("the MLflow UI", page, 60)
    finally:
        forward.kill()
        forward.wait()


def test_sweep_is_submitted_stopped_and_resumed(make_live_sweep: Make, record: Record) -> None:
    sweep = make_live_sweep("steps")
    began = time.time()
    submitted = sweep.submit()
    assert "steps is submitted" in submitted.text
    assert "steps is running already" in sweep.submit("--no-wait").text
    first = sweep.wait_for_report(began) - began
    assert sweep.status()["state"] == "running"
    before = sweep.wait_for_trial()
    moment = time.time()
    stopped = sweep.cluster.sweeper("stop", "steps", *sweep.where)
    assert stopped.code == 0 and "steps has stopped. Submit it again to resume it." in stopped.text, stopped
    assert sweep.status()["state"] == "stopped"
    assert sweep.pods("head") == [] and sweep.pods("worker") == []
    sweep.check_ended(before)
    assert "steps resumes" in sweep.submit().text
    sweep.wait_for_resumed(moment)
    sweep.wait_for_state("Complete")
    assert sweep.status()["state"] == "succeeded"
    sweep.check_whole()
    logs = sweep.cluster.sweeper("logs", "steps", *sweep.where)
    assert logs.code == 0 and "steps: 3 complete" in logs.text, logs
    record("submit", first, f"first report; `submit` itself returned after {submitted.seconds:.0f} s, when it ran")
    record("stop and submit again", stopped.seconds, "stopped; all trials once, study equal to MLflow")


def test_stop_and_logs_of_an_unknown_sweep_say_so(cluster: Cluster) -> None:
    for verb in ("status", "logs", "stop"):
        done = cluster.sweeper(verb, "nothing", "--backend", "kuberay", "--namespace", cluster.namespace)
        assert done.code == 2 and done.seconds < 15, done
        assert f"no sweep 'nothing' was submitted to namespace {cluster.namespace}" in done.text, done


def test_autoscaler_brings_a_worker_and_takes_it_when_it_idles(make_live_sweep: Make, record: Record) -> None:
    space = SMALL["space"] | {"batch_size": {"type": "categorical", "choices": [1, 64]}}
    points = [{"batch_size": 1, "units": 24}, {"batch_size": 64, "units": 8}]  # one trial lasts, the other does not
    budget = {"trials": 2, "epochs": 90, "parallel": 2}
    sweep = make_live_sweep("scaling", space=space, enqueue=points, budget=budget)
    job = yaml.safe_load(Path(changed_rayjob(sweep.cluster, "scaling")).read_text())
    job["spec"]["rayClusterSpec"]["autoscalerOptions"]["idleTimeoutSeconds"] = 20
    file = changed_rayjob(sweep.cluster, "scaling", rayClusterSpec=job["spec"]["rayClusterSpec"])
    began = time.time()
    sweep.submit("--workers", "2", "--rayjob", file)

    def workers() -> int:
        return sum(pod["status"].get("phase") == "Running" for pod in sweep.pods("worker"))

    sweep.cluster.wait_for("a second worker", lambda: workers() == 2)
    brought = time.time() - began
    sweep.cluster.wait_for("the short trial", lambda: ended(sweep) == 1, 300)
    idle = time.time()
    sweep.cluster.wait_for("the idle worker to go", lambda: workers() == 1, 300)
    taken = time.time() - idle
    assert ended(sweep) == 1, "the long trial was too short to see its neighbour's worker go"
    sweep.wait_for_state("Complete")
    sweep.check_whole()
    seen = f"brought {brought:.0f} s after `submit`; taken {taken:.0f} s after its trial (idle timeout 20 s)"
    record("the autoscaler and a second worker", brought, seen)


def ended(sweep: LiveSweep) -> int:
    return sum(row["state"] == "COMPLETE" for row in sweep.progress()["rows"])
