"""The RayJob that runs a sweep: the manifest in k8s/base, filled in."""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import dataclass
from importlib import resources
from typing import Any

from sweeper.backends import Submission

Object = dict[str, Any]

SWEEP_ANNOTATION = "sweeper/name"
"""Annotation with the name of the sweep; the name of a RayJob follows narrower rules."""

_RESULTS = "/mnt/sweeps"
_SWEEP_FILE = "/etc/sweeper/sweep.yaml"
MAX_NAME_CHARS = 47
"""Longest name that the operator accepts; it appends to the name."""


@dataclass(frozen=True)
class Template:
    """Values to fill in beside the sweep; None keeps the value of the manifest."""

    namespace: str = "sweeper"
    image: str | None = None
    worker_image: str | None = None
    """Image of the workers; by default that of the head, with `-gpu` appended if they have GPUs."""
    gpus: int = 0
    """GPUs of each worker."""
    cpus: int | None = None
    """CPUs of each worker."""
    memory: str | None = None
    """Memory of each worker, as in 16Gi."""
    workers: int | None = None
    """Highest number of workers."""
    service_account: str | None = None
    """Service account of the head."""

    def render(self, submission: Submission) -> list[Object]:
        """Return a ConfigMap with the sweep file, and the RayJob that runs it."""
        name = job_name(submission.name)
        meta = {"name": name, "namespace": self.namespace, "annotations": {SWEEP_ANNOTATION: submission.name}}
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"sweep.yaml": submission.text}}
        job = _manifest()
        job["metadata"] |= meta
        job["spec"]["entrypoint"] = entrypoint(submission)
        cluster = job["spec"]["rayClusterSpec"]
        head, workers = cluster["headGroupSpec"]["template"]["spec"], cluster["workerGroupSpecs"][0]
        next(volume for volume in head["volumes"] if "configMap" in volume)["configMap"]["name"] = name
        head["serviceAccountName"] = self.service_account or head["serviceAccountName"]
        workers["maxReplicas"] = self.workers or workers["maxReplicas"]
        submitter = job["spec"]["submitterPodTemplate"]["spec"]
        for pod in (head, submitter):
            pod["containers"][0]["image"] = self.image or pod["containers"][0]["image"]
        self._fill_worker(workers["template"]["spec"], head["containers"][0]["image"])
        return [config, job]

    def _fill_worker(self, pod: Object, image: str) -> None:
        container = pod["containers"][0]
        container["image"] = self.worker_image or (f"{image}-gpu" if self.gpus else image)
        wanted = {"cpu": self.cpus and str(self.cpus), "memory": self.memory, "nvidia.com/gpu": str(self.gpus or "")}
        for amounts in container["resources"].values():
            amounts.update({kind: amount for kind, amount in wanted.items() if amount})
        if self.gpus:
            pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def job_name(sweep: str) -> str:
    """Return a name that Kubernetes and the operator accept; different sweeps get different names."""
    if re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", sweep) and len(sweep) <= MAX_NAME_CHARS:
        return sweep
    slug = re.sub(r"[^a-z0-9]+", "-", sweep.lower())[:31].strip("-")
    return f"sweep-{slug}-{hashlib.sha256(sweep.encode()).hexdigest()[:8]}"


def entrypoint(submission: Submission) -> str:
    """Return the command that Ray runs, in the form of the manifest.

    Quote once: the submitter's shell splits it into words, and Ray's client quotes them again for the head's shell.
    """
    options = submission.options
    if not any(option.partition("=")[0] == "--dir" for option in options):
        options = ("--dir", f"{_RESULTS}/{submission.name}", *options)
    run = shlex.join(["sweeper", "run", _SWEEP_FILE, *options])
    return f"sh -c {shlex.quote(f'{run} || {{ code=$?; test $code -eq 3 || exit $code; }}')}"


def _manifest() -> Object:
    from ruamel.yaml import YAML

    text = resources.files("sweeper.backends").joinpath("rayjob.yaml").read_text()
    manifest: Object = YAML(typ="safe", pure=True).load(text)
    return manifest
