"""The RayJob of a person, for `--rayjob FILE`: read from YAML, and checked for all that sweeper relies on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sweeper.backends.rayjob import SWEEP_FOLDER, Object, parse_yaml, sweep_volume
from sweeper.core.errors import InputError
from sweeper.core.text import first_line, format_value

MAX_BYTES = 2_000_000
"""Largest file that is read: an API server takes no larger objects."""

_BEGIN = "Begin with k8s/base/rayjob.yaml, or with what `kubectl kustomize k8s/overlays/YOURS` prints"


def read_rayjob(file: Path) -> Object:
    """Return the only RayJob in a file of YAML documents; `-` is standard input.

    Raises:
        InputError: the file cannot be read, or holds no RayJob that can run a sweep.
    """
    source = "--rayjob: standard input" if str(file) == "-" else f"--rayjob: {file}"
    found = [item for item in _documents(file, source) if isinstance(item, dict) and item.get("kind") == "RayJob"]
    if len(found) != 1:
        count = f"{len(found)} RayJobs, and one of them has to be chosen" if found else "no RayJob"
        raise InputError(f"{source} holds {count}. {_BEGIN}")
    try:
        job: Object = json.loads(json.dumps(found[0], default=str))  # no part is shared through an anchor
    except (ValueError, TypeError) as error:
        raise InputError(f"{source} holds a RayJob that is no plain data: {first_line(error)}") from error
    _check(job, source)
    keys = ("name", "namespace", "labels", "annotations")
    known = {key: job["metadata"][key] for key in keys if job["metadata"].get(key)}
    known.get("annotations", {}).pop("kubectl.kubernetes.io/last-applied-configuration", None)
    return {**{key: job[key] for key in ("apiVersion", "kind", "spec")}, "metadata": known}


def _documents(file: Path, source: str) -> list[Any]:
    try:
        stream = sys.stdin.buffer if str(file) == "-" else file.open("rb")
        with stream:
            data = stream.read(MAX_BYTES + 1)
        text = data.decode()
    except OSError as error:
        raise InputError(f"{source} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is not text in UTF-8") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"{source} is larger than {MAX_BYTES / 1e6:.0f} MB; is it a RayJob?")
    return parse_yaml(text, source)


def _check(job: Object, source: str) -> None:
    """Raise InputError for a RayJob that cannot run a sweep; the cluster checks the rest of it."""

    def part(path: str, kind: type, *, of: Any = job) -> Any:
        value = of
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, kind) or not value:
            raise InputError(f"{source}: the RayJob has no {path}. {_BEGIN}")
        return value

    part("metadata", dict)
    if job.get("apiVersion") != "ray.io/v1":
        raise InputError(f"{source}: apiVersion is {format_value(job.get('apiVersion'))}, but must be ray.io/v1")
    spec = part("spec", dict)
    if spec.get("submissionMode", "K8sJobMode") != "K8sJobMode":
        raise InputError(f"{source}: spec.submissionMode must be K8sJobMode; `sweeper logs` reads the submitter's pod")
    if spec.get("shutdownAfterJobFinishes") is not True:
        raise InputError(f"{source}: spec.shutdownAfterJobFinishes must be true; `sweeper stop` cannot suspend it else")
    groups = part("spec.rayClusterSpec.workerGroupSpecs", list)
    pods = [part("spec.rayClusterSpec.headGroupSpec.template.spec", dict)]
    pods += [part("template.spec", dict, of=group) for group in groups]
    pods += [part("spec.submitterPodTemplate.spec", dict)] if spec.get("submitterPodTemplate") else []
    for pod in pods:
        part("image", str, of=part("containers", list, of=pod)[0])
    if sweep_volume(pods[0]) is None:
        raise InputError(
            f"{source}: the head mounts no ConfigMap at {SWEEP_FOLDER}, where the sweep file is read. {_BEGIN}"
        )
    runtime = (parse_yaml(spec.get("runtimeEnvYAML") or "", f"{source}: spec.runtimeEnvYAML") or [None])[0] or {}
    if not isinstance(runtime, dict) or not isinstance(runtime.get("env_vars", {}), dict):
        raise InputError(f"{source}: spec.runtimeEnvYAML must hold a mapping, and env_vars in it another one")
