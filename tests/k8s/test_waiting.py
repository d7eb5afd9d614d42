"""Why a sweep on Kubernetes does not run; pods and events are written as schedulers, kubelets and Kueue do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from sweeper.backends import Submission
from sweeper.backends.kuberay import KubeRay
from sweeper.backends.rayjob import Template
from tests.k8s.parts import Namespace, rules_without, wait_until

SWEEP = Submission("lstm", "name: lstm\n")
CLUSTER = "lstm-abcde"


def unschedulable(message: str) -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"phase": "Pending", "conditions": [condition]}


def container(state: dict[str, Any]) -> dict[str, Any]:
    one = {"name": "ray-job-submitter", "image": "", "imageID": "", "ready": False, "restartCount": 0}
    return {"phase": "Pending", "containerStatuses": [{**one, "state": state}]}


def stuck(reason: str, message: str) -> dict[str, Any]:
    return container({"waiting": {"reason": reason, "message": message}})


PREEMPTION = "preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."
BACK_OFF = 'Back-off pulling image "sweeper:1": ErrImagePull: failed to pull and unpack image: sweeper:1: not found'


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (
            unschedulable(f"0/2 nodes are available: 2 Insufficient nvidia.com/gpu. {PREEMPTION}"),
            "a worker cannot be scheduled: 0/2 nodes are available: 2 Insufficient nvidia.com/gpu",
        ),
        (
            unschedulable('0/2 nodes are available: persistentvolumeclaim "sweeps" not found.'),
            'a worker cannot be scheduled: 0/2 nodes are available: persistentvolumeclaim "sweeps" not found',
        ),
        (
            unschedulable(f"0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. {PREEMPTION}"),
            "pod has unbound immediate PersistentVolumeClaims (its claims: sweeps)",
        ),
        (
            stuck("ImagePullBackOff", BACK_OFF),
            "a worker cannot pull the image sweeper:1 (not found); name another with --image",
        ),
        (stuck("InvalidImageName", "couldn't parse image"), "a worker cannot pull the image sweeper:1"),
        (
            stuck("CreateContainerConfigError", 'secret "database" not found'),
            'a worker cannot start (CreateContainerConfigError): secret "database" not found',
        ),
        (
            container({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}),
            "a worker's container ray-job-submitter has ended with exit code 137 (OOMKilled)",
        ),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."},
            "a worker has failed: Evicted: The node was low on resource: memory.",
        ),
    ],
)
def test_state_of_a_pod_is_a_reason(namespace: Namespace, status: dict[str, Any], reason: str) -> None:
    backend = waiting_sweep(namespace)
    claim = {"name": "sweeps", "persistentVolumeClaim": {"claimName": "sweeps"}}
    add_worker(namespace, spec={"volumes": [claim]}, status=status)
    (found,) = backend.status("lstm").reasons
    assert reason in found
    namespace.set_phase("Running", jobStatus="RUNNING")
    assert backend.status("lstm").reasons == ()


def test_pod_that_is_just_starting_is_no_reason(namespace: Namespace) -> None:
    backend = waiting_sweep(namespace)
    namespace.add_pod("lstm-1", status=stuck("ContainerCreating", ""))
    assert backend.status("lstm").reasons == ()
    assert backend.status("lstm").state == "waiting"


def test_pods_of_other_sweeps_are_no_reason(namespace: Namespace) -> None:
    backend = waiting_sweep(namespace)
    labels = {"ray.io/cluster": "other-abcde", "ray.io/node-type": "worker"}
    namespace.add_pod("other", status=unschedulable("0/2 nodes are available"), labels=labels)
    namespace.add_event("FailedCreate", "exceeded quota: small", about=("RayCluster", "other-abcde"))
    assert backend.status("lstm").reasons == ()


def test_volume_that_cannot_be_mounted_is_a_reason(namespace: Namespace) -> None:
    backend = waiting_sweep(namespace)
    add_worker(namespace, status=stuck("ContainerCreating", ""))
    namespace.add_event("FailedMount", 'MountVolume.SetUp failed:\n no "nfs"', about=("Pod", "worker"))
    (found,) = backend.status("lstm").reasons
    assert found == 'a worker cannot start (FailedMount): MountVolume.SetUp failed: no "nfs"'


def test_quota_that_is_exceeded_is_a_reason_until_a_pod_is_created(namespace: Namespace) -> None:
    backend = waiting_sweep(namespace)
    quota = "exceeded quota: small, requested: limits.cpu=2, used: limits.cpu=0, limited: limits.cpu=1"
    for attempt in range(2):
        message = f'Failed to create head Pod: pods "lstm-abcde-head-{attempt}" is forbidden: {quota}'
        namespace.add_event("FailedToCreateHeadPod", message, about=("RayCluster", CLUSTER))
    assert backend.status("lstm").reasons == (f"a pod cannot be created: {quota}",)
    time.sleep(1.1)  # times are in whole seconds
    namespace.add_pod("lstm-1", status={"phase": "Pending"})
    assert backend.status("lstm").reasons == ()


def test_operator_that_does_not_run_is_a_reason_after_a_while(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backend_in(namespace)
    backend.submit(SWEEP)
    assert backend.status("lstm").reasons == ()
    monkeypatch.setattr("sweeper.backends.waiting.OPERATOR_TIMEOUT_S", 1.0)
    wait_until(lambda: backend.status("lstm").reasons != ())
    assert "KubeRay's operator has not seen it; does it run?" in backend.status("lstm").reasons[0]
    namespace.set_phase("Initializing")
    assert backend.status("lstm").reasons == ()


@pytest.mark.parametrize("kind", ["pods", "events"])
def test_what_a_user_may_not_see_is_a_reason(make_namespace: Callable[..., Namespace], kind: str) -> None:
    namespace = make_namespace(rules_without(("list", kind)))
    backend = backend_in(namespace)
    _, job = backend.render(SWEEP)
    namespace.create_job(job)
    (found,) = backend.status("lstm").reasons
    assert "the cluster does not let you see why" in found and f'cannot list resource "{kind}"' in found


def test_queue_says_why_a_sweep_waits_in_it(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backend_in(namespace, queue="team", workers=3)
    backend.submit(SWEEP)
    job = namespace.job()
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team" and job["spec"]["suspend"] is True
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is False and "autoscalerOptions" not in cluster
    (group,) = cluster["workerGroupSpecs"]
    assert {group[key] for key in ("replicas", "minReplicas", "maxReplicas")} == {3}
    namespace.set_phase("Suspended")
    assert (backend.status("lstm").state, backend.status("lstm").reasons) == ("waiting", ())
    monkeypatch.setattr("sweeper.backends.waiting.OPERATOR_TIMEOUT_S", 0.0)
    assert backend.status("lstm").reasons == (
        "Kueue has not taken it into queue team; does Kueue run, with its integration ray.io/rayjob?",
    )
    full = "couldn't assign flavors to pod set head: insufficient unused quota for cpu"
    namespace.set_workload({"type": "QuotaReserved", "status": "False", "message": full})
    assert backend.status("lstm").reasons == (f"it waits in queue team: {full}",)
    assert "is running already" in backend.submit(SWEEP)
    evicted = {"type": "Evicted", "status": "True", "message": "Preempted to accommodate a workload"}
    namespace.set_workload(evicted, {"type": "QuotaReserved", "status": "False", "message": full})
    assert backend.status("lstm").reasons[0] == "Kueue has suspended it: Preempted to accommodate a workload"


def test_stop_of_a_sweep_in_a_queue_deactivates_its_workload(namespace: Namespace) -> None:
    backend = backend_in(namespace, queue="team")
    backend.submit(SWEEP)
    namespace.set_workload()
    namespace.patch_job({"spec": {"suspend": False}})  # Kueue has admitted it
    namespace.set_phase("Running", jobStatus="RUNNING")
    with namespace.operator(lambda job: "Suspended" if job["spec"]["suspend"] else None):
        backend.stop("lstm")
    (workload,) = namespace.workloads()
    assert workload["spec"]["active"] is False
    assert backend.status("lstm").state == "stopped"
    assert "resumes" in backend.submit(SWEEP)
    assert backend.status("lstm").state == "waiting"


def test_changed_submission_replaces_one_that_does_not_run_yet(namespace: Namespace) -> None:
    backend = backend_in(namespace)
    backend.submit(SWEEP)
    first = namespace.job()["metadata"]["uid"]
    assert "is running already" in backend.submit(SWEEP)
    assert "is submitted anew" in backend_in(namespace, image="sweeper:2").submit(SWEEP)
    assert namespace.job()["metadata"]["uid"] != first
    namespace.set_phase("Running", jobStatus="RUNNING")
    assert "is running already" in backend.submit(SWEEP)


def backend_in(namespace: Namespace, **values: Any) -> KubeRay:
    return KubeRay(Template(namespace.name, **values), timeout_s=60, poll_interval_s=0.05)


def waiting_sweep(namespace: Namespace) -> KubeRay:
    """Return a backend with a sweep whose Ray cluster is being created."""
    backend = backend_in(namespace)
    backend.submit(SWEEP)
    namespace.set_phase("Initializing", rayClusterName=CLUSTER)
    return backend


def add_worker(namespace: Namespace, **options: Any) -> None:
    namespace.add_pod("worker", labels={"ray.io/cluster": CLUSTER, "ray.io/node-type": "worker"}, **options)
