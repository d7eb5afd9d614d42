"""Backend that runs each sweep on Kubernetes, as a RayJob of KubeRay."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from sweeper.backends import JobStatus, Submission
from sweeper.backends.kubernetes_api import REQUEST_OPTIONS, KubernetesApi, reason_of
from sweeper.backends.rayjob import QUEUE_LABEL, Object, Template, job_name
from sweeper.backends.rayjob_status import CONTENT_ANNOTATION, STOP_ANNOTATION, is_same, status_of
from sweeper.backends.submit_checks import RAYJOBS, check_submission
from sweeper.backends.waiting import WORKLOADS, find_workload, why_waiting
from sweeper.core.errors import InputError

_MERGE = "application/merge-patch+json"
_APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True)
class KubeRay:
    """A cluster with KubeRay's operator; `template` holds the namespace and the workers."""

    template: Template = field(default_factory=Template)
    context: str | None = None
    """A context of the kubeconfig other than the current one."""
    timeout_s: float = 180.0
    """Limit for a sweep to stop and for an old RayJob to be deleted; `logs` waits as long for an unavailable server."""
    poll_interval_s: float = 1.0
    retry_reads: bool = False
    """Retry reads while the API server is unavailable, as `logs` does."""
    on_delay: Callable[[str], None] = lambda what: None
    """Gets a sentence when a submission takes long."""

    @cached_property
    def _api(self) -> KubernetesApi:
        limits = {"timeout_s": self.timeout_s, "poll_interval_s": self.poll_interval_s}
        return KubernetesApi(self.context, **limits, retry_reads=self.retry_reads)

    def render(self, submission: Submission) -> list[Object]:
        """Return the objects that `submit` creates."""
        return self.template.render(submission)

    def submit(self, submission: Submission) -> str:
        """Create the RayJob of a sweep. If it has ended, create it anew: the sweep resumes.

        One that does not run yet is created anew if anything in it has changed.

        Raises:
            InputError: the cluster rejects the objects as invalid, or has no such namespace.
            BackendError: the cluster cannot be reached, or refuses, or has no KubeRay that fits.
        """
        config, job = self.render(submission)
        content = hashlib.sha256(json.dumps([config, job], sort_keys=True).encode()).hexdigest()[:16]
        job["metadata"]["annotations"] = {**job["metadata"]["annotations"], CONTENT_ANNOTATION: content}
        name = job["metadata"]["name"]
        place = f"RayJob {name} in namespace {self.template.namespace}"
        with self._api.translated_errors():
            check_submission(self._api, self.template.namespace, job, is_own=self.template.manifest is not None)
            before = self._find(name)
            if before is not None:
                if is_same(before, content) and not before["metadata"].get("deletionTimestamp"):
                    self._set_config_owner(before)  # the submission that created it may have been cut off before this
                    return f"{submission.name} is running already: {place}"
                self.on_delay(f"The pods of the last attempt at {submission.name} are being deleted.")
                self._remove(name)
            self._apply(config)
            try:
                made = self._api.jobs.create_namespaced_custom_object(**self._request, body=job)
            except self._api.errors.ConflictException:
                return f"{submission.name} is running already: {place}"
            self._set_config_owner(made)
        if before is None:
            return f"{submission.name} is submitted: {place}"
        had_begun = status_of(before).state != "waiting"
        return f"{submission.name} {'resumes' if had_begun else 'is submitted anew'}: {place}"

    def status(self, name: str) -> JobStatus:
        """Return the state of a sweep.

        Raises:
            InputError: it was never submitted, or its RayJob was deleted.
        """
        with self._api.translated_errors():
            job = self._job(name)
            status = status_of(job)
            return replace(status, reasons=why_waiting(self._api, job)) if status.state == "waiting" else status

    def states(self, name: str) -> Iterator[JobStatus]:
        """Yield the state of a sweep, poll by poll; wait while the API server is unavailable, as `logs` does."""
        patient = replace(self, retry_reads=True)
        while True:
            yield patient.status(name)
            time.sleep(self.poll_interval_s)

    def logs(self, name: str, *, follow: bool) -> Iterator[str]:
        """Yield the output of a sweep line by line, from its beginning: the logs of the pods that submitted it."""
        yield from replace(self, retry_reads=True)._logs(name, follow=follow)

    def _logs(self, name: str, *, follow: bool) -> Iterator[str]:
        shown: dict[str, str] = {}  # the time of the last line that was shown, by pod
        finished: set[str] = set()
        while True:
            with self._api.translated_errors():
                # The state is read before the logs: then they hold everything that was written until the end.
                is_over = status_of(self._job(name)).is_over
                pods = self._submitters(name)
            for pod, has_finished in pods:
                if pod not in finished:
                    yield from self._new_lines(pod, shown, follow=follow and not is_over)
                if has_finished:
                    finished.add(pod)
            if is_over or not follow:
                return
            time.sleep(self.poll_interval_s)

    def stop(self, name: str) -> None:
        """Suspend the RayJob of a sweep: the head stops the sweep with its progress saved, and all pods are deleted.

        Deleting the RayJob would stop the sweep too, but leave no object that shows its state.

        Raises:
            InputError: it is not running.
            BackendError: it has not stopped after `timeout_s`.
        """
        with self._api.translated_errors():
            if (status := status_of(self._job(name))).is_over:
                raise InputError(f"sweep {name!r} is not running: it has {status.state}")
            self._suspend(self._job(name))
            self._api.wait(lambda: status_of(self._job(name)).is_over, f"sweep {name!r} is still stopping")

    def _suspend(self, job: Object) -> None:
        """Suspend a RayJob; one in a queue by deactivating its Workload, because Kueue would resume it."""
        request = {**self._request, "name": job["metadata"]["name"]}
        patch: Object = {"spec": {"suspend": True}}
        if QUEUE_LABEL in job["metadata"].get("labels", {}):
            patch |= {"metadata": {"annotations": {STOP_ANNOTATION: "true"}}}
            if (workload := find_workload(self._api, job)) is not None:
                chosen = {**WORKLOADS, "namespace": self.template.namespace, "name": workload["metadata"]["name"]}
                self._api.jobs.patch_namespaced_custom_object(
                    **chosen, body={"spec": {"active": False}}, _content_type=_MERGE, **REQUEST_OPTIONS
                )
        self._api.jobs.patch_namespaced_custom_object(**request, body=patch, _content_type=_MERGE)

    def _find(self, name: str) -> Object | None:
        try:
            found: Object = self._api.jobs.get_namespaced_custom_object(**self._request, name=name)
        except self._api.errors.NotFoundException as error:
            if reason_of(error)[0]:
                return None
            raise  # without a reason, the server does not know the kind RayJob
        return found

    def _job(self, sweep: str) -> Object:
        if (job := self._find(job_name(sweep))) is None:
            raise InputError(f"no sweep {sweep!r} was submitted to namespace {self.template.namespace}")
        return job

    def _remove(self, name: str) -> None:
        """Delete a RayJob, and wait until everything that it owns is deleted: two attempts never run side by side."""
        options = {"propagationPolicy": "Foreground"}
        try:
            self._api.jobs.delete_namespaced_custom_object(**self._request, name=name, body=options)
        except self._api.errors.NotFoundException:
            return
        self._api.wait(lambda: self._find(name) is None, f"RayJob {name} of the last attempt is still being deleted")

    def _apply(self, config: Object) -> None:
        self._api.core.patch_namespaced_config_map(
            config["metadata"]["name"],
            self.template.namespace,
            config,
            field_manager="sweeper",
            force=True,
            _content_type=_APPLY,
            **REQUEST_OPTIONS,
        )

    def _set_config_owner(self, job: Object) -> None:
        """Make the RayJob own its ConfigMap, so that both are deleted together."""
        meta = job["metadata"]
        owner = {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": meta["name"], "uid": meta["uid"]}
        patch = {"metadata": {"ownerReferences": [{**owner, "blockOwnerDeletion": True}]}}
        names = (meta["name"], self.template.namespace)
        self._api.core.patch_namespaced_config_map(*names, patch, _content_type=_MERGE, **REQUEST_OPTIONS)

    def _submitters(self, sweep: str) -> list[tuple[str, bool]]:
        """Return the pods that submitted a sweep, the oldest first, and whether each has finished."""
        label = f"batch.kubernetes.io/job-name={job_name(sweep)}"
        pods = self._api.core.list_namespaced_pod(
            self.template.namespace, label_selector=label, **REQUEST_OPTIONS
        ).items
        pods.sort(key=lambda pod: pod.metadata.creation_timestamp)
        return [(pod.metadata.name, pod.status.phase in ("Succeeded", "Failed")) for pod in pods]

    def _new_lines(self, pod: str, shown: dict[str, str], *, follow: bool) -> Iterator[str]:
        """Yield the lines of a pod that were not shown yet; reconnect when the connection is lost."""
        from urllib3.exceptions import HTTPError

        while True:
            with self._api.translated_errors():
                lines = self._open_log(pod, follow=follow)
            try:
                for data in lines:
                    moment, _, line = data.decode("utf-8", "replace").partition(" ")
                    if not line.endswith("\n") or moment <= shown.get(pod, ""):
                        continue  # half a line is read again after the reconnect
                    if shown and pod not in shown:
                        yield f"--- pod {pod} submits the sweep now; its log follows from the beginning\n"
                    shown[pod] = moment
                    yield line
                return
            except (HTTPError, OSError):
                time.sleep(self.poll_interval_s)

    def _open_log(self, pod: str, *, follow: bool) -> Iterator[bytes]:
        """Return the lines of a pod, each after its time; none if its container does not exist yet, or no longer."""
        options = {"follow": follow, "timestamps": True, "_preload_content": False, **REQUEST_OPTIONS}
        try:
            lines: Iterator[bytes] = self._api.core.read_namespaced_pod_log(pod, self.template.namespace, **options)
        except (self._api.errors.BadRequestException, self._api.errors.NotFoundException):
            return iter(())
        return lines

    @property
    def _request(self) -> dict[str, Any]:
        return {**RAYJOBS, "namespace": self.template.namespace, **REQUEST_OPTIONS}
