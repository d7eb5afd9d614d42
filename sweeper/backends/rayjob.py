"""The RayJob that runs a sweep: the manifest in k8s/base or the one of a person, filled in."""

from __future__ import annotations

import copy
import hashlib
import re
import shlex
from dataclasses import dataclass
from importlib import resources
from typing import Any

from sweeper.backends import Submission
from sweeper.core.environment import versions
from sweeper.core.errors import InputError
from sweeper.core.text import first_line, to_yaml

Object = dict[str, Any]

SWEEP_ANNOTATION = "sweeper/name"
"""Annotation with the name of the sweep; the name of a RayJob follows narrower rules."""

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
"""Label with the queue of Kueue that decides when a RayJob runs."""

SUBMITTED_BY = "SWEEPER_SUBMITTED_BY"
"""Variable of the head with the version of sweeper that submitted the sweep; `sweeper run` compares it with its own."""

SWEEP_FOLDER = "/etc/sweeper"
_RESULTS = "/mnt/sweeps"
_GPU = "nvidia.com/gpu"
MAX_NAME_CHARS = 47
"""Longest name that the operator accepts; it appends to the name."""


@dataclass(frozen=True)
class Template:
    """A RayJob, and the values to fill in beside the sweep; None keeps the value of the RayJob."""

    namespace: str = "sweeper"
    image: str | None = None
    """Image of all pods; workers with GPUs get it with `-gpu` appended."""
    gpus: int = 0
    """GPUs of each worker."""
    workers: int | None = None
    """Highest number of workers."""
    queue: str | None = None
    """Queue of Kueue in which the sweep waits. Its number of workers is fixed then: Kueue admits no other."""
    manifest: Object | None = None
    """The RayJob to fill in, as `read_rayjob` returns it; None: the one in k8s/base."""

    def render(self, submission: Submission) -> list[Object]:
        """Return a ConfigMap with the sweep file, and the RayJob that runs it.

        Raises:
            InputError: an option changes the only worker group, and there are several.
        """
        name = job_name(submission.name)
        meta = {"name": name, "namespace": self.namespace, "annotations": {SWEEP_ANNOTATION: submission.name}}
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"sweep.yaml": submission.text}}
        job = _packaged() if self.manifest is None else copy.deepcopy(self.manifest)
        annotations = {**job["metadata"].get("annotations", {}), SWEEP_ANNOTATION: submission.name}
        job["metadata"] |= {"name": name, "namespace": self.namespace, "annotations": annotations}
        spec = job["spec"]
        spec.pop("suspend", None)
        spec |= {"entrypoint": entrypoint(submission), "runtimeEnvYAML": _runtime_env(spec.get("runtimeEnvYAML"))}
        head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
        if (volume := sweep_volume(head)) is not None:
            volume["configMap"]["name"] = name
        self._fill_workers(spec["rayClusterSpec"]["workerGroupSpecs"], head["containers"][0]["image"])
        if self.image:
            for pod in (head, spec.get("submitterPodTemplate", {}).get("spec")):
                if pod:
                    pod["containers"][0]["image"] = self.image
        if self.queue:
            self._fill_queue(job)
        return [config, job]

    def _fill_workers(self, groups: list[Object], head_image: str) -> None:
        if len(groups) > 1 and (self.gpus or self.workers):
            option = "--worker-gpus" if self.gpus else "--workers"
            raise InputError(
                f"{option} changes the worker group of a RayJob, but this one has {len(groups)}; set it in its file"
            )
        for group in groups:
            if self.workers:
                group["maxReplicas"] = self.workers
                for key in ("replicas", "minReplicas"):
                    group[key] = min(group.get(key, 0), self.workers)
            self._fill_worker(group["template"]["spec"], head_image)

    def _fill_worker(self, pod: Object, head_image: str) -> None:
        container = pod["containers"][0]
        amounts = container.setdefault("resources", {})
        if self.gpus:
            for kind in ("requests", "limits"):
                amounts.setdefault(kind, {})[_GPU] = str(self.gpus)
            toleration = {"key": _GPU, "operator": "Exists", "effect": "NoSchedule"}
            known = pod.get("tolerations") or []
            pod["tolerations"] = known if toleration in known else [*known, toleration]
        has_gpus = str(amounts.get("limits", {}).get(_GPU, "0")) != "0"
        if self.image or (self.gpus and self.manifest is None):
            container["image"] = f"{self.image or head_image}{'-gpu' if has_gpus else ''}"

    def _fill_queue(self, job: Object) -> None:
        job["metadata"].setdefault("labels", {})[QUEUE_LABEL] = self.queue
        job["spec"]["suspend"] = True  # until Kueue admits it
        cluster = job["spec"]["rayClusterSpec"]
        cluster["enableInTreeAutoscaling"] = False
        cluster.pop("autoscalerOptions", None)
        for group in cluster["workerGroupSpecs"]:
            size = self.workers or group.get("replicas", 1)
            group |= {"replicas": size, "minReplicas": size, "maxReplicas": size}


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
    run = shlex.join(["sweeper", "run", f"{SWEEP_FOLDER}/sweep.yaml", *options])
    return f"sh -c {shlex.quote(f'{run} || {{ code=$?; test $code -eq 3 || exit $code; }}')}"


def sweep_volume(head: Object) -> Object | None:
    """Return the volume of a head that holds the sweep file; None if it has none."""
    mounts = head["containers"][0].get("volumeMounts") or []
    names = [mount.get("name") for mount in mounts if str(mount.get("mountPath")).rstrip("/") == SWEEP_FOLDER]
    volumes = [volume for volume in head.get("volumes") or [] if volume.get("name") in names]
    return next((volume for volume in volumes if isinstance(volume.get("configMap"), dict)), None)


def parse_yaml(text: str, source: str) -> list[Any]:
    """Return the YAML documents in a text.

    Raises:
        InputError: it is no YAML.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return list(YAML(typ="safe", pure=True).load_all(text))
    except (YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or first_line(error)
        raise InputError(f"{source}{place} is not YAML: {problem}") from error


def _runtime_env(known: str | None) -> str:
    """Return the runtime environment of the Ray job, with the version of sweeper that submits it."""
    runtime = (parse_yaml(known or "{}", "runtimeEnvYAML") or [{}])[0] or {}
    variables = {**(runtime.get("env_vars") or {}), SUBMITTED_BY: versions(["sweeper"]).get("sweeper", "")}
    return to_yaml({**runtime, "env_vars": variables})


def _packaged() -> Object:
    text = resources.files("sweeper.backends").joinpath("rayjob.yaml").read_text()
    manifest: Object = parse_yaml(text, "rayjob.yaml")[0]
    return manifest
