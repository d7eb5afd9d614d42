"""The RayJob that runs a sweep: the one in k8s/base, filled in."""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import dataclass
from importlib import resources
from typing import Any

from sweeper.backends import Submission

Object = dict[str, Any]

SWEEP = "sweeper/name"
"""The annotation that holds the name of the sweep; the name of the RayJob follows narrower rules."""

_RESULTS = "/mnt/sweeps"
_SWEEP_FILE = "/etc/sweeper/sweep.yaml"
_LONGEST = 47
"""What the operator takes; it appends to the name."""


@dataclass(frozen=True)
class Template:
    """What is filled in beside the sweep; None leaves what the manifest says."""

    namespace: str = "sweeper"
    image: str | None = None
    worker_image: str | None = None
    """By default that of the head; with GPUs, the same with `-gpu` appended."""
    gpus: int = 0
    """GPUs of each worker."""
    cpus: int | None = None
    """CPUs of each worker."""
    memory: str | None = None
    """Memory of each worker, as 16Gi."""
    workers: int | None = None
    """The most workers there may be."""
    service_account: str | None = None
    """Of the head."""

    def render(self, submission: Submission) -> list[Object]:
        """The sweep file in a ConfigMap, and the RayJob that runs it."""
        name = job_name(submission.name)
        meta = {"name": name, "namespace": self.namespace, "annotations": {SWEEP: submission.name}}
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
    """A name that Kubernetes and the operator take, the same for the same sweep and another for any other."""
    if re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", sweep) and len(sweep) <= _LONGEST:
        return sweep
    slug = re.sub(r"[^a-z0-9]+", "-", sweep.lower())[:31].strip("-")
    return f"sweep-{slug}-{hashlib.sha256(sweep.encode()).hexdigest()[:8]}"


def entrypoint(submission: Submission) -> str:
    """The command that Ray runs, as the manifest has it.

    A shell of the submitter reads it first and one of the head after it: what is quoted here is read once.
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
