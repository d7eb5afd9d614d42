"""The manifests: read from their files, built by kustomize, and iterated over."""

from __future__ import annotations

import copy
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.conftest import ROOT

Object = dict[str, Any]

K8S = ROOT / "k8s"
OVERLAYS = ("cpu", "gpu", "small", "spot")


def built(folder: Path) -> list[Object]:
    """Return the objects that `kubectl apply -k` of a folder applies."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; nothing else here builds kustomizations")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.load_all(done.stdout, yaml.CSafeLoader))


@cache
def described() -> list[Object]:
    """Return the objects of overlays/cpu, assembled without kubectl, for machines that lack it."""
    files = [*(K8S / "base").glob("*.yaml"), *(K8S / "components" / "stores").glob("*.yaml")]
    files.append(K8S / "components" / "raycluster" / "raycluster.yaml")
    read = [item for file in sorted(files) for item in yaml.safe_load_all(file.read_text())]
    objects: list[Object] = [item for item in read if item.get("kind") not in (None, "Kustomization", "Component")]
    sweep = {"sweep.yaml": (K8S / "base" / "sweep.yaml").read_text()}
    objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "quick"}, "data": sweep})
    for item in objects:
        if item["kind"] != "Namespace":
            item["metadata"]["namespace"] = "sweeper"
    one(objects, "RayCluster")["spec"] = copy.deepcopy(one(objects, "RayJob")["spec"]["rayClusterSpec"])
    return objects


def one(objects: list[Object], kind: str, name: str = "") -> Object:
    """Return the only object of a kind, or of a kind and a name."""
    (found,) = [item for item in objects if item["kind"] == kind and name in ("", item["metadata"]["name"])]
    return found


def clusters(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Yield every Ray cluster with the object that holds it."""
    for item in objects:
        name = f"{item['kind']} {item['metadata']['name']}"
        if item["kind"] == "RayJob":
            yield name, item["spec"]["rayClusterSpec"]
        elif item["kind"] == "RayCluster":
            yield name, item["spec"]


def templates(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Yield every template of a pod with the object that holds it."""
    for item in objects:
        name = f"{item['kind']} {item['metadata']['name']}"
        if item["kind"] in ("Deployment", "StatefulSet"):
            yield name, item["spec"]["template"]
        elif item["kind"] == "RayJob":
            yield f"{name} submitter", item["spec"]["submitterPodTemplate"]
    for name, cluster in clusters(objects):
        yield f"{name} head", cluster["headGroupSpec"]["template"]
        for group in cluster["workerGroupSpecs"]:
            yield f"{name} {group['groupName']}", group["template"]


def containers(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Yield every container, and that of the autoscaler, which the operator adds."""
    for name, template in templates(objects):
        pod = template["spec"]
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            yield f"{name} {container['name']}", container
    for name, cluster in clusters(objects):
        yield f"{name} autoscaler", cluster["autoscalerOptions"]


def environment(container: Object) -> Iterator[tuple[str, str]]:
    """Yield the variables of a container that have a literal value."""
    for variable in container.get("env", []):
        if "value" in variable:
            yield variable["name"], variable["value"]
