"""Faults of a live cluster, one after another, while one sweep runs. Each is a row of the table in k8s/README.md."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.k8s.live.cluster import Cluster, Object
from tests.k8s.live.sweeps import SMALL, Inspector, LiveSweep

pytestmark = [pytest.mark.k8s, pytest.mark.timeout(1800)]

Record = Callable[[str, float | None, str], None]

FORCE = ("--force", "--grace-period=0")


@pytest.fixture(scope="module")
def shared(cluster: Cluster, inspector: Inspector, first_sweep: LiveSweep) -> Iterator[LiveSweep]:
    budget = {"trials": 500, "epochs": 30, "parallel": 1}  # more trials than all faults together can last
    sweep = LiveSweep(cluster, inspector, "faults", budget=budget)
    sweep.submit()
    yield sweep
    sweep.remove()


@pytest.fixture
def sweep(shared: LiveSweep) -> LiveSweep:
    """Return the sweep that all faults hit, while a trial has begun to report."""
    status = shared.wait_for_state("Running", "Failed", "Complete", "Suspended")
    if status["jobDeploymentStatus"] != "Running":
        pytest.fail(f"an earlier fault has ended the sweep: {status}")
    shared.wait_for_trial()
    return shared


def test_worker_pod_is_deleted(sweep: LiveSweep, record: Record) -> None:
    before, moment = sweep.wait_for_trial(), time.time()
    sweep.cluster.kubectl("delete", "pod", sweep.pod("worker")["metadata"]["name"], *FORCE)
    resumed = sweep.wait_for_resumed(moment)
    sweep.check_ended(before)
    record("a worker pod is deleted", resumed - moment, "the trial resumed on a new worker")


def test_worker_is_killed(sweep: LiveSweep, record: Record) -> None:
    pod, before, moment = sweep.pod("worker")["metadata"]["name"], sweep.wait_for_trial(), time.time()
    kill(sweep, pod, "ray-worker", "-x", "raylet")
    resumed = sweep.wait_for_resumed(moment)
    sweep.check_ended(before)
    record("a worker's raylet is killed", resumed - moment, "the trial resumed on a new worker")


def test_process_of_a_trial_is_killed(sweep: LiveSweep, record: Record) -> None:
    pod, before, moment = sweep.pod("worker")["metadata"]["name"], sweep.wait_for_trial(), time.time()
    kill(sweep, pod, "ray-worker", "-f", "^ray::_Inner")  # Ray calls the process of a Tune trial so
    resumed = sweep.wait_for_resumed(moment)
    sweep.check_ended(before)
    assert sweep.pod("worker")["metadata"]["name"] == pod
    record("a trial's process is killed", resumed - moment, "the trial resumed on the same worker")


def kill(sweep: LiveSweep, pod: str, container: str, *pattern: str) -> None:
    with contextlib.suppress(subprocess.CalledProcessError):  # the command may be killed with its container
        sweep.cluster.kubectl("exec", pod, "-c", container, "--", "pkill", "-KILL", *pattern)


def test_head_is_deleted(sweep: LiveSweep, record: Record) -> None:
    cluster, before, moment = sweep.pods("head"), sweep.wait_for_trial(), time.time()
    sweep.cluster.kubectl("delete", "pod", cluster[0]["metadata"]["name"], *FORCE)
    resumed = sweep.wait_for_resumed(moment)
    sweep.check_ended(before)
    status = sweep.status()
    assert status["state"] == "running", status
    again = sweep.pod("head")["metadata"]["labels"]["ray.io/cluster"]
    same = "the same" if again == cluster[0]["metadata"]["labels"]["ray.io/cluster"] else "a new"
    record("the head is deleted", resumed - moment, f"the sweep resumed on {same} Ray cluster")


def test_node_of_the_worker_is_drained(sweep: LiveSweep, record: Record) -> None:
    node, before = sweep.pod("worker")["spec"]["nodeName"], sweep.wait_for_trial()
    if not [item for item in sweep.cluster.items("nodes") if item["metadata"]["name"] != node and is_ready(item)]:
        pytest.skip("the cluster has one node only: nothing can move to another")
    sweep.inspector.close()
    moment = time.time()
    options = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=240s")
    try:
        sweep.cluster.kubectl("drain", node, *options, timeout_s=300)
        drained = time.time() - moment
        with contextlib.suppress(AssertionError):
            # A disk of the node, or no room elsewhere, keeps a pod from moving. Then the node comes back.
            sweep.cluster.wait_for("the stores on another node", lambda: stores_run(sweep.cluster), 120)
    finally:
        moved = stores_run(sweep.cluster)
        if not moved:
            sweep.cluster.kubectl("uncordon", node)
    try:
        resumed = sweep.wait_for_resumed(moment)
    finally:
        sweep.cluster.kubectl("uncordon", node)
    sweep.check_ended(before)
    way = "with the node still drained" if moved else "after the node was back: the other had no room for all pods"
    record("a worker's node is drained", resumed - moment, f"drained in {drained:.0f} s; the trial resumed {way}")


def is_ready(node: Object) -> bool:
    conditions = {item["type"]: item["status"] for item in node["status"]["conditions"]}
    return conditions.get("Ready") == "True" and not node["spec"].get("unschedulable")


def stores_run(cluster: Cluster) -> bool:
    found = [cluster.find(kind, name) or {} for kind, name in (("statefulset", "postgres"), ("deployment", "mlflow"))]
    return all(item.get("status", {}).get("readyReplicas") for item in found)


def test_rayjob_is_suspended(sweep: LiveSweep, record: Record) -> None:
    before, moment = sweep.wait_for_trial(), time.time()
    patch(sweep, {"suspend": True})
    sweep.wait_for_state("Suspended", timeout_s=240)
    stopped = time.time() - moment
    assert sweep.status()["state"] == "stopped"
    sweep.cluster.wait_for("its pods to end", lambda: not sweep.cluster.items("pods", "ray.io/is-ray-node=yes"))
    sweep.check_ended(before)
    again = time.time()
    patch(sweep, {"suspend": False})
    resumed = sweep.wait_for_resumed(moment)
    sweep.check_ended(before)
    record("the RayJob is suspended", resumed - again, f"stopped in {stopped:.0f} s, with progress saved; then resumed")


def patch(sweep: LiveSweep, spec: Object) -> None:
    sweep.cluster.kubectl("patch", "rayjob", sweep.name, "--type=merge", "-p", json.dumps({"spec": spec}))


def test_api_server_is_away(sweep: LiveSweep, record: Record) -> None:
    stop, start = os.environ.get("SWEEPER_K8S_STOP_API"), os.environ.get("SWEEPER_K8S_START_API")
    if not stop or not start:
        pytest.skip("SWEEPER_K8S_STOP_API and SWEEPER_K8S_START_API do not say how to stop and start the API server")
    before, moment = sweep.wait_for_trial(), time.time()
    subprocess.run(stop, shell=True, check=True)
    try:
        time.sleep(2)
        told = sweep.cluster.sweeper("status", sweep.name, *sweep.where, timeout_s=120)
        time.sleep(max(0.0, 30 - (time.time() - moment)))
    finally:
        subprocess.run(start, shell=True, check=True)
    back = time.time()
    assert told.code == 69 and told.text.count("\n") == 1, told
    reported = sum(moment + 2 < at < back for at in sweep.wait_for_study_after(back)["times"])
    assert reported > 0
    sweep.check_ended(before)
    assert sweep.status()["state"] == "running"
    record("the API server is away for 30 s", 0, f"trials made {reported} reports in this time; `status` ends with 69")


def test_database_is_away(sweep: LiveSweep, record: Record) -> None:
    before = sweep.wait_for_trial()
    with scaled_to_nothing(sweep.cluster, "statefulset", "postgres", 60) as away:
        pass
    back = sweep.wait_for_report(away.ended)
    sweep.check_ended(before)
    assert attempts(sweep.progress(), before) == attempts(before, before), "a trial was interrupted"
    record("the database is away for 60 s", back - away.ended, "trials waited; the same attempts continued")


def test_mlflow_is_away(sweep: LiveSweep, record: Record) -> None:
    before = sweep.wait_for_trial()
    with scaled_to_nothing(sweep.cluster, "deployment", "mlflow", 60) as away:
        pass
    reported = sum(away.began < at < away.ended for at in sweep.progress()["times"])
    assert reported > 5
    began = time.time()
    sweep.check_ended(before)
    record(
        "MLflow is away for 60 s",
        0,
        f"{reported} reports meanwhile; MLflow was complete {time.time() - began:.0f} s later",
    )


class Away:
    """The time from the end of a store's last pod to the start of its next one, in Unix seconds."""

    began = ended = 0.0


@contextlib.contextmanager
def scaled_to_nothing(cluster: Cluster, kind: str, name: str, seconds: float) -> Iterator[Away]:
    """Scale a store to no pods for a time, then back to one, and wait until it is ready."""
    away, label = Away(), f"app.kubernetes.io/name={name}"
    try:
        cluster.kubectl("scale", kind, name, "--replicas=0")
        cluster.wait_for(f"{name} to end", lambda: not cluster.items("pods", label))
        away.began = time.time()
        time.sleep(seconds)
    finally:
        cluster.kubectl("scale", kind, name, "--replicas=1")
    cluster.wait_for(f"{name} to be back", lambda: (cluster.find(kind, name) or {})["status"].get("readyReplicas"))
    away.ended = time.time()
    yield away


def attempts(progress: Object, of: Object) -> dict[int, int]:
    """Return the number of attempts of each trial that is in another reading."""
    known = {row["number"] for row in of["rows"]}
    return {row["number"]: row["attempt"] for row in progress["rows"] if row["number"] in known}


def test_sweep_that_saw_all_of_this_is_complete(shared: LiveSweep, record: Record) -> None:
    shared.wait_for_trial()
    stopped = shared.cluster.sweeper("stop", shared.name, *shared.where)
    assert stopped.code == 0, stopped
    # A total below what has started: the trial that was interrupted ends, and no other begins.
    shared.file.write_text(json.dumps(json.loads(shared.file.read_text()) | {"budget": SMALL["budget"] | FEW}))
    assert f"{shared.name} resumes" in shared.submit().text
    shared.wait_for_state("Complete")
    shared.check_whole()
    rows: list[Any] = shared.progress()["rows"]
    assert {row["state"] for row in rows} == {"COMPLETE"}
    resumed = sum(row["attempt"] > 1 for row in rows)
    record("all of this in one sweep", None, f"{len(rows)} trials, each once, {resumed} resumed; study equal to MLflow")


FEW = {"trials": 1, "epochs": 30}
