"""Sweeps that cannot begin or continue on a live cluster: what is printed, and what happens once the cause is gone."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.k8s.live.cluster import Cluster, Object
from tests.k8s.live.conftest import kubeconfig_of
from tests.k8s.live.sweeps import LiveSweep

pytestmark = [pytest.mark.k8s, pytest.mark.timeout(1800)]

Make = Callable[..., LiveSweep]
Record = Callable[[str, float | None, str], None]


def submitted_until(sweep: LiveSweep, reason: str, *options: str, timeout_s: float = 120.0) -> tuple[str, float]:
    """Submit a sweep that does not begin to run, until a reason is printed; then press Ctrl-C.

    Returns:
        what was printed, and after how many seconds the reason was.
    """
    began, lines = time.monotonic(), []
    process = sweep.cluster.start_sweeper(*sweep.submit_command(*options))
    try:
        for line in process.stdout or ():
            lines.append(line)
            if reason in line:
                break
            assert time.monotonic() - began < timeout_s, "".join(lines) + sweep.cluster.explain()
        seconds = time.monotonic() - began
        assert reason in lines[-1], "".join(lines) + sweep.cluster.explain()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=20)
        assert process.returncode == 130, rest
    finally:
        process.kill()
        process.communicate()
    return "".join(lines) + rest, seconds


def changed_rayjob(cluster: Cluster, name: str, **spec: object) -> str:
    """Write the RayJob of the overlay with other values, and return the path of the file."""
    (job,) = [item for item in yaml.safe_load_all(cluster.rayjob.read_text()) if item["kind"] == "RayJob"]
    job["spec"] |= spec
    file = cluster.folder / f"{name}.rayjob.yaml"
    file.write_text(json.dumps(job))
    return str(file)


def test_image_that_cannot_be_pulled(make_live_sweep: Make, record: Record) -> None:
    sweep = make_live_sweep("no-image")
    image = "registry.invalid/sweeper:0.2.0-ray2.60.0"
    text, seconds = submitted_until(sweep, image, "--image", image)
    assert "sweeper status no-image" in text or "sweeper logs no-image" in text, text
    assert sweep.status()["state"] == "waiting"
    again = sweep.submit()  # with the image that the cluster has
    sweep.wait_for_state("Complete")
    sweep.check_whole()
    record("an image cannot be pulled", seconds, f"said by `submit`; {again.text.splitlines()[0]} with another image")


def test_quota_that_is_too_small(make_live_sweep: Make, record: Record) -> None:
    sweep = make_live_sweep("no-quota")
    with quota(sweep.cluster):
        text, seconds = submitted_until(sweep, "exceeded quota")
    began = time.time()
    sweep.wait_for_report(began)
    record("the quota is too small", seconds, "said by `submit`; the sweep began by itself once there was more")
    sweep.wait_for_state("Complete")
    sweep.check_whole()


@contextlib.contextmanager
def quota(cluster: Cluster) -> Iterator[None]:
    """Allow no pod more than the namespace has."""
    pods = len([pod for pod in cluster.items("pods") if pod["status"].get("phase") in ("Pending", "Running")])
    meta: Object = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "tests"}}
    cluster.apply(meta | {"spec": {"hard": {"pods": str(pods)}}})
    try:
        cluster.wait_for(
            "the quota", lambda: (cluster.find("resourcequota", "tests") or {}).get("status", {}).get("used")
        )
        yield
    finally:
        cluster.kubectl("delete", "resourcequota", "tests")


def test_node_that_is_too_small(make_live_sweep: Make, record: Record) -> None:
    sweep = make_live_sweep("no-node")
    job = yaml.safe_load(Path(changed_rayjob(sweep.cluster, "no-node")).read_text())
    worker = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    worker["resources"] = {kind: {"cpu": "1", "memory": "9Ti"} for kind in ("requests", "limits")}
    file = changed_rayjob(sweep.cluster, "no-node", rayClusterSpec=job["spec"]["rayClusterSpec"])
    text, seconds = submitted_until(sweep, "Insufficient memory", "--rayjob", file)
    record("no node has room for a worker", seconds, "said by `submit`, with the scheduler's reason")


def test_sweep_that_fails_each_time_uses_up_its_attempts(make_live_sweep: Make, record: Record) -> None:
    sweep = make_live_sweep("hopeless", trainable="not_in_the_image:train", space={"x": 1}, objective={"metric": "x"})
    (sweep.cluster.folder / "not_in_the_image.py").write_text("def train(params, trial):\n    trial.report(x=1)\n")
    began = time.time()
    sweep.submit("--no-wait", "--rayjob", changed_rayjob(sweep.cluster, "hopeless", backoffLimit=1))
    status = sweep.wait_for_state("Failed", timeout_s=600)
    assert status["failed"] == 2
    told = sweep.cluster.sweeper("status", "hopeless", *sweep.where)
    assert told.code == 0 and "hopeless failed (attempt 2" in told.text, told
    logs = sweep.cluster.sweeper("logs", "hopeless", *sweep.where)
    assert "not_in_the_image" in logs.text, logs
    assert sweep.pods("head") == []
    record("`backoffLimit` is used up", time.time() - began, f"2 attempts, then: {told.text.strip().splitlines()[-1]}")


def test_sweep_waits_in_a_queue_and_is_preempted(make_live_sweep: Make, record: Record) -> None:
    first, urgent = (
        make_live_sweep("preempted", budget={"trials": 3, "epochs": 60, "parallel": 1}),
        make_live_sweep("urgent"),
    )
    if first.cluster.find("crd", "workloads.kueue.x-k8s.io") is None:
        pytest.skip("the cluster has no Kueue")
    with queue(first.cluster):
        first.submit("--queue", "tests")
        before, moment = first.wait_for_trial(), time.time()
        job = yaml.safe_load(Path(changed_rayjob(first.cluster, "urgent")).read_text())
        job["metadata"].setdefault("labels", {})["kueue.x-k8s.io/priority-class"] = "tests-urgent"
        file = first.cluster.folder / "urgent.rayjob.yaml"
        file.write_text(json.dumps(job))
        urgent.submit("--queue", "tests", "--rayjob", str(file))
        urgent.wait_for_report(moment)
        assert first.status()["state"] in ("waiting", "stopped")
        assert first.pods("worker") == []
        first.check_ended(before)
        urgent.wait_for_state("Complete")
        resumed = first.wait_for_resumed(moment)
        first.wait_for_state("Complete")
        for sweep in (first, urgent):
            sweep.check_whole()
            sweep.remove()
    record("Kueue preempts the sweep", resumed - moment, "suspended for a more urgent one, then resumed by Kueue")


@contextlib.contextmanager
def queue(cluster: Cluster) -> Iterator[None]:
    """Make a queue of Kueue with room for one sweep, and a priority that preempts."""
    served = cluster.kubectl("api-versions").split()
    api = next(version for version in ("kueue.x-k8s.io/v1beta2", "kueue.x-k8s.io/v1beta1") if version in served)
    names = ("cpu", "memory")
    room = [{"name": name, "nominalQuota": amount} for name, amount in zip(names, ("1200m", "8Gi"), strict=True)]
    objects: list[Object] = [
        {"apiVersion": api, "kind": "ResourceFlavor", "metadata": {"name": "tests"}},
        {
            "apiVersion": api,
            "kind": "ClusterQueue",
            "metadata": {"name": "tests"},
            "spec": {
                "namespaceSelector": {},
                "preemption": {"withinClusterQueue": "LowerPriority"},
                "resourceGroups": [
                    {"coveredResources": list(names), "flavors": [{"name": "tests", "resources": room}]}
                ],
            },
        },
        {"apiVersion": api, "kind": "LocalQueue", "metadata": {"name": "tests"}, "spec": {"clusterQueue": "tests"}},
        {"apiVersion": api, "kind": "WorkloadPriorityClass", "metadata": {"name": "tests-urgent"}, "value": 1000},
    ]
    try:
        cluster.apply(*objects)
        yield
    finally:
        for item in objects[::-1]:
            cluster.kubectl("delete", item["kind"], item["metadata"]["name"], "--ignore-not-found", "--wait=false")


def test_namespace_without_rights(cluster: Cluster, make_live_sweep: Make, record: Record) -> None:
    sweep, stranger = make_live_sweep("no-rights"), kubeconfig_of(cluster, "stranger")
    done = cluster.sweeper(*sweep.submit_command(), kubeconfig=stranger, timeout_s=60)
    assert done.code == 69 and done.seconds < 15, done
    for right in ("create rayjobs", "get rayjobs", "configmaps"):
        assert right in done.text, done
    assert cluster.namespace in done.text and "sweeper-submitter" in done.text, done
    assert cluster.find("rayjob", "no-rights") is None and cluster.find("configmap", "no-rights") is None
    record("the rights are missing", done.seconds, f"exit code 69: {done.text.strip()}")


WRONG: dict[str, tuple[Callable[[Object], object], int, str]] = {
    "nowhere": (
        lambda config: config["clusters"][0]["cluster"].update(server="https://127.0.0.1:9"),
        69,
        "127.0.0.1:9",
    ),
    "expired": (
        lambda config: config["users"].__setitem__(0, {"name": "submitter", "user": {"token": "old"}}),
        69,
        "401",
    ),
    "empty": (lambda config: config.clear(), 2, "kubeconfig"),
    "unknown context": (lambda config: config.update({"current-context": "other"}), 2, "other"),
}
"""Mistakes in a kubeconfig, the exit code, and a part of the message."""


@pytest.mark.parametrize("mistake", WRONG)
def test_kubeconfig_that_does_not_work(cluster: Cluster, make_live_sweep: Make, mistake: str) -> None:
    spoil, code, part = WRONG[mistake]
    config = json.loads(Path(str(cluster.kubeconfig)).read_text())
    spoil(config)
    file = cluster.folder / "spoilt.kubeconfig"
    file.write_text(json.dumps(config))
    sweep = make_live_sweep("spoilt")
    done = cluster.sweeper(*sweep.submit_command(), kubeconfig=str(file), timeout_s=60)
    assert done.code == code and done.seconds < 15 and part in done.text, done
    assert len(done.text.strip().splitlines()) == 1, done
    assert cluster.find("rayjob", "spoilt") is None and cluster.find("configmap", "spoilt") is None


def test_kubeconfig_that_is_missing(cluster: Cluster, make_live_sweep: Make) -> None:
    sweep = make_live_sweep("missing")
    done = cluster.sweeper(*sweep.submit_command(), kubeconfig=str(cluster.folder / "no-such-file"), timeout_s=60)
    assert done.code == 2 and done.seconds < 15 and "no-such-file" in done.text, done


def test_namespace_that_is_missing(cluster: Cluster, make_live_sweep: Make) -> None:
    sweep = make_live_sweep("nowhere")
    sweep.where = ("--backend", "kuberay", "--namespace", "no-such-namespace")
    done = cluster.sweeper(*sweep.submit_command(), timeout_s=60)
    assert done.code in (2, 69) and done.seconds < 15 and "no-such-namespace" in done.text, done
