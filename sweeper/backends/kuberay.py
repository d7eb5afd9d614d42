"""Runs sweeps on Kubernetes, each as a RayJob of KubeRay's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sweeper.backends import JobStatus, Submission
from sweeper.backends.kubernetes_api import REQUEST_TIMEOUT_S, KubernetesApi, reason_of
from sweeper.backends.rayjob import SWEEP, Object, Template, job_name
from sweeper.core.errors import InputError

_RAYJOBS = {"group": "ray.io", "version": "v1", "plural": "rayjobs"}
_MERGE = "application/merge-patch+json"
_APPLY = "application/apply-patch+yaml"

_STATES: dict[str, Any] = {
    "Running": "running",
    "Suspending": "running",
    "Suspended": "stopped",
    "Complete": "succeeded",
    "Failed": "failed",
    "ValidationFailed": "failed",
}
"""What the operator does with a RayJob, in our words; all else is waiting."""


@dataclass(frozen=True)
class KubeRay:
    """A cluster with KubeRay's operator; `template` says in which namespace, on what workers."""

    template: Template = field(default_factory=Template)
    context: str | None = None
    """A context of the kubeconfig other than the current one."""
    patience: float = 180.0
    """Seconds that a sweep has to stop, an old RayJob to be gone, and a lost API server to come back."""
    look: float = 1.0
    """Seconds between two looks."""

    @cached_property
    def _api(self) -> KubernetesApi:
        return KubernetesApi(self.context, patience=self.patience, look=self.look)

    def render(self, submission: Submission) -> list[Object]:
        """The objects that `submit` makes."""
        return self.template.render(submission)

    def submit(self, submission: Submission) -> str:
        """Make the RayJob of a sweep; one that has ended is made again, and the sweep goes on where it stood.

        Raises:
            InputError: the cluster finds the objects invalid.
            BackendError: the cluster cannot be reached, or refuses.
        """
        config, job = self.render(submission)
        name = job["metadata"]["name"]
        place = f"RayJob {name} in namespace {self.template.namespace}"
        with self._api.explained():
            before = self._find(name)
            if before is not None:
                if not _status(before).wait_or_stop and not before["metadata"].get("deletionTimestamp"):
                    self._own_config(before)  # whoever made it may have been cut off before that
                    return f"{submission.name} is running already: {place}"
                self._remove(name)
            self._apply(config)
            try:
                made = self._api.jobs.create_namespaced_custom_object(**self._where, body=job)
            except self._api.errors.ConflictException:
                return f"{submission.name} is running already: {place}"
            self._own_config(made)
        return f"{submission.name} {'goes on' if before else 'is submitted'}: {place}"

    def status(self, name: str) -> JobStatus:
        """How a sweep stands.

        Raises:
            InputError: it was not submitted, or has been deleted.
        """
        with self._api.explained():
            return _status(self._job(name))

    def logs(self, name: str, *, follow: bool) -> Iterator[str]:
        """What a sweep prints, by lines, from its beginning, as the pods that submitted it have it."""
        told: dict[str, str] = {}  # until when, by pod
        finished: set[str] = set()
        while True:
            # Asked before the logs are read: what was written until it ended is read then.
            is_over = self._api.ask(lambda: _status(self._job(name))).wait_or_stop
            for pod, has_finished in self._api.ask(lambda: self._submitters(name)):
                if pod not in finished:
                    yield from self._log(pod, told, follow=follow and not is_over)
                if has_finished:
                    finished.add(pod)
            if is_over or not follow:
                return
            time.sleep(self.look)

    def stop(self, name: str) -> None:
        """Suspend the RayJob of a sweep: the head has the sweep stop in good order, and all pods go.

        Deleting it would do the same, but leave nothing behind that says so.

        Raises:
            InputError: it is not running.
            BackendError: it has not stopped in time.
        """
        with self._api.explained():
            if (status := _status(self._job(name))).wait_or_stop:
                raise InputError(f"sweep {name!r} is not running: it has {status.state}")
            where = {**self._where, "name": job_name(name)}
            patch = {"spec": {"suspend": True}}
            self._api.jobs.patch_namespaced_custom_object(**where, body=patch, _content_type=_MERGE)
            self._api.wait(lambda: _status(self._job(name)).wait_or_stop, f"sweep {name!r} is still stopping")

    def _find(self, name: str) -> Object | None:
        try:
            found: Object = self._api.jobs.get_namespaced_custom_object(**self._where, name=name)
        except self._api.errors.NotFoundException as error:
            if reason_of(error)[0]:
                return None
            raise  # it does not know what a RayJob is
        return found

    def _job(self, sweep: str) -> Object:
        if (job := self._find(job_name(sweep))) is None:
            raise InputError(f"no sweep {sweep!r} was submitted to namespace {self.template.namespace}")
        return job

    def _remove(self, name: str) -> None:
        """Delete a RayJob, and wait until all that it owns is gone: two attempts at a sweep never meet."""
        options = {"propagationPolicy": "Foreground"}
        try:
            self._api.jobs.delete_namespaced_custom_object(**self._where, name=name, body=options)
        except self._api.errors.NotFoundException:
            return
        self._api.wait(lambda: self._find(name) is None, f"RayJob {name}, which has ended, is still being deleted")

    def _apply(self, config: Object) -> None:
        self._api.core.patch_namespaced_config_map(
            config["metadata"]["name"],
            self.template.namespace,
            config,
            field_manager="sweeper",
            force=True,
            _content_type=_APPLY,
            **REQUEST_TIMEOUT_S,
        )

    def _own_config(self, job: Object) -> None:
        """Have the ConfigMap go when the RayJob does."""
        meta = job["metadata"]
        owner = {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": meta["name"], "uid": meta["uid"]}
        patch = {"metadata": {"ownerReferences": [{**owner, "blockOwnerDeletion": True}]}}
        names = (meta["name"], self.template.namespace)
        self._api.core.patch_namespaced_config_map(*names, patch, _content_type=_MERGE, **REQUEST_TIMEOUT_S)

    def _submitters(self, sweep: str) -> list[tuple[str, bool]]:
        """The pods that submitted a sweep, the first one first, and whether each has finished."""
        label = f"batch.kubernetes.io/job-name={job_name(sweep)}"
        pods = self._api.core.list_namespaced_pod(
            self.template.namespace, label_selector=label, **REQUEST_TIMEOUT_S
        ).items
        pods.sort(key=lambda pod: pod.metadata.creation_timestamp)
        return [(pod.metadata.name, pod.status.phase in ("Succeeded", "Failed")) for pod in pods]

    def _log(self, pod: str, told: dict[str, str], *, follow: bool) -> Iterator[str]:
        """The lines of a pod that were not told yet; a lost connection is made again."""
        from urllib3.exceptions import HTTPError

        while True:
            try:
                for data in self._api.ask(lambda: self._open_log(pod, follow=follow)):
                    moment, _, line = data.decode("utf-8", "replace").partition(" ")
                    if not line.endswith("\n") or moment <= told.get(pod, ""):
                        continue  # half a line is read again, and what was told is not
                    if told and pod not in told:
                        yield f"--- {pod} submits it now, and tells its log from the beginning\n"
                    told[pod] = moment
                    yield line
                return
            except (HTTPError, OSError):
                time.sleep(self.look)

    def _open_log(self, pod: str, *, follow: bool) -> Iterator[bytes]:
        """The lines of a pod, each after its time; none, if its container is not there yet, or no more."""
        options = {"follow": follow, "timestamps": True, "_preload_content": False, **REQUEST_TIMEOUT_S}
        try:
            lines: Iterator[bytes] = self._api.core.read_namespaced_pod_log(pod, self.template.namespace, **options)
        except (self._api.errors.BadRequestException, self._api.errors.NotFoundException):
            return iter(())
        return lines

    @property
    def _where(self) -> dict[str, Any]:
        return {**_RAYJOBS, "namespace": self.template.namespace, **REQUEST_TIMEOUT_S}


def _status(job: Object) -> JobStatus:
    """What the operator says of a RayJob."""
    status = job.get("status", {})
    phase = status.get("jobDeploymentStatus", "")
    state = _STATES.get(phase, "waiting")
    if state == "succeeded" and status.get("jobStatus") == "STOPPED":
        state = "stopped"
    message = str(status.get("message", "")).strip().splitlines()[-1:]  # before it stands the end of the log
    keys = {"rayClusterName": "cluster", "startTime": "began", "endTime": "ended"}
    return JobStatus(
        name=job["metadata"].get("annotations", {}).get(SWEEP, job["metadata"]["name"]),
        state=state,
        message="; ".join(filter(None, [status.get("reason"), *message])),
        attempt=max(1, status.get("failed", 0) + (state != "failed")),
        details={"RayJob": phase or "not seen by KubeRay's operator yet"}
        | {told: str(status[key]) for key, told in keys.items() if status.get(key)},
    )
