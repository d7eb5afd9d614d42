"""Why a sweep on Kubernetes does not run yet: what its pods, its events and its queue say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sweeper.backends.kubernetes_api import REQUEST_OPTIONS, ROLE, KubernetesApi, reason_of
from sweeper.backends.rayjob import QUEUE_LABEL, Object
from sweeper.backends.rayjob_status import message_of

WORKLOADS = {"group": "kueue.x-k8s.io", "version": "v1beta2", "plural": "workloads"}

OPERATOR_TIMEOUT_S = 20.0
"""Time after which a RayJob without a status, or without a Workload of its queue, is reported, in seconds."""

_MAX_EVENTS = 500

_PULL = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "RegistryUnavailable")
_STARTING = ("ContainerCreating", "PodInitializing")
_EVENTS_OF_PODS = ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox")
"""Events of a pod that its status does not show."""

_PASSING = "failed to sync "
"""Part of a message of a kubelet that has not read a ConfigMap or a Secret yet; on a busy node that takes seconds."""

_ROLES = {"head": "the head", "worker": "a worker"}


def why_waiting(api: KubernetesApi, job: Object) -> tuple[str, ...]:
    """Return the reasons for which a RayJob has no running sweep yet; none if it just needs its time.

    What this user may not read is one of them. Errors of the client are raised as they are.
    """
    found: list[str] = []
    parts = (_of_the_operator, _of_the_queue) if _is_suspended(job) else (_of_the_operator, _of_the_pods)
    for part in parts:
        try:
            found += part(api, job)
        except api.errors.ForbiddenException as error:
            found.append(f"the cluster does not let you see why: {reason_of(error)[1]}. {ROLE}")
    return tuple(dict.fromkeys(found))


def _is_suspended(job: Object) -> bool:
    return bool(job["spec"].get("suspend")) and QUEUE_LABEL in job["metadata"].get("labels", {})


def _of_the_operator(api: KubernetesApi, job: Object) -> Iterator[str]:
    status = job.get("status", {})
    if job["metadata"].get("deletionTimestamp"):
        yield "its RayJob is being deleted, and ends its pods first"
    if status.get("jobDeploymentStatus") == "Retrying":
        yield f"attempt {status.get('failed', 1)} has failed ({message_of(status)}), and the next one begins"
    if status.get("jobStatus") == "PENDING":
        yield "its pods run, and Ray prepares the job"
    if not status.get("jobDeploymentStatus") and not status.get("failed") and _age_s(job) > OPERATOR_TIMEOUT_S:
        yield "KubeRay's operator has not seen it; does it run? See: kubectl get pods -A | grep kuberay-operator"


def _of_the_queue(api: KubernetesApi, job: Object) -> Iterator[str]:
    queue = job["metadata"]["labels"][QUEUE_LABEL]
    workload = find_workload(api, job)
    if workload is None:
        if _age_s(job) > OPERATOR_TIMEOUT_S:
            yield f"Kueue has not taken it into queue {queue}; does Kueue run, with its integration ray.io/rayjob?"
        return
    conditions = {one["type"]: one for one in workload.get("status", {}).get("conditions", ())}
    evicted, reserved = conditions.get("Evicted", {}), conditions.get("QuotaReserved", {})
    if evicted.get("status") == "True":
        yield f"Kueue has suspended it: {evicted.get('message', '')}"
    if reserved.get("status") != "True":
        yield f"it waits in queue {queue}: {reserved.get('message') or 'Kueue has not decided yet'}"


def find_workload(api: KubernetesApi, job: Object) -> Object | None:
    """Return Kueue's Workload of a RayJob; None if it has none."""
    place = {**WORKLOADS, "namespace": job["metadata"]["namespace"]}
    for workload in api.jobs.list_namespaced_custom_object(**place, **REQUEST_OPTIONS)["items"]:
        if any(owner["uid"] == job["metadata"]["uid"] for owner in workload["metadata"].get("ownerReferences", ())):
            found: Object = workload
            return found
    return None


def _of_the_pods(api: KubernetesApi, job: Object) -> Iterator[str]:
    namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
    cluster = job.get("status", {}).get("rayClusterName")
    selectors = [f"batch.kubernetes.io/job-name={name}", *([f"ray.io/cluster={cluster}"] if cluster else [])]
    pods = [
        pod
        for selector in selectors
        for pod in api.core.list_namespaced_pod(namespace, label_selector=selector, **REQUEST_OPTIONS).items
        if pod.metadata.deletion_timestamp is None
    ]
    for pod in pods:
        yield from _of_one_pod(pod)
    yield from _of_the_events(api, job, pods)


def _of_one_pod(pod: Any) -> Iterator[str]:
    role, status = _role(pod), pod.status
    for condition in status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False" and condition.message:
            yield f"{role} cannot be scheduled: {_shortened(condition.message)}{_claims(pod, condition.message)}"
    if status.phase == "Failed" and status.reason:
        yield f"{role} has failed: {status.reason}: {status.message or ''}"
    images = {
        container.name: container.image for container in (*(pod.spec.init_containers or ()), *pod.spec.containers)
    }
    for container in (*(status.init_container_statuses or ()), *(status.container_statuses or ())):
        waiting, ended = container.state.waiting, container.state.terminated
        if waiting and waiting.reason in _PULL:
            image = f"{images[container.name]}{_cause(waiting.message or '')}"
            yield f"{role} cannot pull the image {image}; name another with --image, and submit the sweep again"
        elif waiting and waiting.reason and waiting.reason not in _STARTING:
            yield f"{role} cannot start ({waiting.reason}): {_shortened(waiting.message or '')}"
        elif ended and ended.exit_code:
            yield f"{role}'s container {container.name} has ended with exit code {ended.exit_code} ({ended.reason})"


def _role(pod: Any) -> str:
    return _ROLES.get((pod.metadata.labels or {}).get("ray.io/node-type", ""), "the submitter")


def _shortened(message: str) -> str:
    """Return a message of the scheduler or a kubelet without what is no reason."""
    return re.sub(r"\.? (preemption: |no new claims to deallocate, ).*", "", " ".join(message.split())).strip(" ,.")


def _claims(pod: Any, message: str) -> str:
    """Return the claims of a pod, where a message is about claims and does not name them."""
    if "PersistentVolumeClaims" not in message:
        return ""
    volumes = [one.persistent_volume_claim for one in pod.spec.volumes or () if one.persistent_volume_claim]
    return f" (its claims: {', '.join(volume.claim_name for volume in volumes)})"


def _cause(message: str) -> str:
    """Return why an image cannot be pulled, in brackets: the innermost reason of several."""
    inner = " ".join(message.split()).rpartition(": ")[2].strip(' ."')
    return f" ({inner})" if inner and not inner.startswith("Back-off") else ""


def _of_the_events(api: KubernetesApi, job: Object, pods: list[Any]) -> Iterator[str]:
    """Yield why pods cannot be created, or cannot get their volumes.

    What could not be created before the newest pod was is no reason any more.
    """
    since = max((pod.metadata.creation_timestamp for pod in pods), default=_created(job))
    roles = {pod.metadata.name: _role(pod) for pod in pods if pod.status.phase == "Pending"}
    makers = {job["metadata"]["name"], job.get("status", {}).get("rayClusterName")}
    options = {"field_selector": "type=Warning", "limit": _MAX_EVENTS, **REQUEST_OPTIONS}
    for event in api.core.list_namespaced_event(job["metadata"]["namespace"], **options).items:
        name, moment = event.involved_object.name, event.last_timestamp or event.event_time
        message = " ".join((event.message or "").split())
        if name in roles and event.reason in _EVENTS_OF_PODS and _PASSING not in message:
            yield f"{roles[name]} cannot start ({event.reason}): {message}"
        elif name in makers and event.involved_object.kind != "Pod" and (moment is None or moment >= since):
            # The names of the pods differ each time; the same reason is printed once.
            _, forbidden, rule = message.partition(" is forbidden: ")
            yield f"a pod cannot be created: {rule}" if forbidden else f"{event.reason}: {message}"


def _created(job: Object) -> datetime:
    return datetime.fromisoformat(job["metadata"]["creationTimestamp"].replace("Z", "+00:00"))


def _age_s(job: Object) -> float:
    return (datetime.now(UTC) - _created(job)).total_seconds()
