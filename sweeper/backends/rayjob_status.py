"""What the status of a RayJob means: the state of its sweep, and what to do about an end."""

from __future__ import annotations

import re
from typing import Any

from sweeper.backends import JobStatus
from sweeper.backends.rayjob import QUEUE_LABEL, SWEEP_ANNOTATION, Object

STOP_ANNOTATION = "sweeper/stopped"
"""Annotation of a RayJob in a queue that `stop` has suspended, and not Kueue."""

CONTENT_ANNOTATION = "sweeper/content"
"""Annotation with a hash of what was submitted: a sweep that does not run yet is replaced if that has changed."""

_STATES: dict[str, Any] = {
    "Running": "running",
    "Suspending": "running",
    "Suspended": "stopped",
    "Complete": "succeeded",
    "Failed": "failed",
    "ValidationFailed": "failed",
}
"""States of a RayJob, as the operator names them, and ours; a sweep in any other state is waiting."""

_ADVICE = {
    "exit code 127": "The image does not contain sweeper; build it from k8s/Dockerfile, or name another with --image",
    "exit code 2": "Each attempt ends in this way; correct the cause, and submit the sweep again",
}
"""What to do if the command of a Ray job ends with an exit code."""


def is_same(job: Object, content: str) -> bool:
    """Return whether a RayJob already does what is submitted: its sweep runs, or waits with the same content."""
    status = status_of(job)
    known = job["metadata"].get("annotations", {}).get(CONTENT_ANNOTATION)
    return status.state == "running" or (status.state == "waiting" and known in (None, content))


def status_of(job: Object) -> JobStatus:
    """Return the state of a RayJob, as the operator has recorded it."""
    status, meta = job.get("status", {}), job["metadata"]
    annotations = meta.get("annotations", {})
    phase = status.get("jobDeploymentStatus", "")
    state = _STATES.get(phase, "waiting")
    if state == "succeeded" and status.get("jobStatus") == "STOPPED":
        state = "stopped"
    elif state == "running" and status.get("jobStatus", "") in ("", "PENDING"):
        state = "waiting"  # its pods run, and the sweep does not yet
    elif state == "stopped" and QUEUE_LABEL in meta.get("labels", {}) and STOP_ANNOTATION not in annotations:
        state = "waiting"  # Kueue will run it
    message = "" if state == "waiting" else message_of(status)  # of a job that is about to start, or was retried
    keys = {"rayClusterName": "cluster", "startTime": "began", "endTime": "ended"}
    return JobStatus(
        name=annotations.get(SWEEP_ANNOTATION, meta["name"]),
        state=state,
        message="; ".join(filter(None, [status.get("reason"), message])),
        attempt=max(1, status.get("failed", 0) + (state != "failed")),
        details={"RayJob": phase or "not seen by KubeRay's operator yet"}
        | {label: str(status[key]) for key, label in keys.items() if status.get(key)},
        is_ending=state == "running" and status.get("jobStatus") != "RUNNING",
    )


def message_of(status: Object) -> str:
    """Return the last line of what the operator says about a RayJob, which may hold the end of a log, with advice."""
    lines = str(status.get("message", "")).strip().splitlines() or [""]
    advice = [advice for code, advice in _ADVICE.items() if re.search(rf"{code}\b", lines[0])]
    return ". ".join([lines[-1], *advice])
