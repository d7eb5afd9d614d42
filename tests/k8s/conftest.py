"""KubeRay's CustomResourceDefinitions where this machine has them, and a control plane where it has its programs."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.control_plane import ControlPlane, missing_programs
from tests.k8s.crd import Crd
from tests.k8s.parts import RULES, Kubelet, Namespace, add_node

ROOT = Path(__file__).parents[2]

WORKLOAD_CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "workloads.kueue.x-k8s.io"},
    "spec": {
        "group": "kueue.x-k8s.io",
        "names": {"kind": "Workload", "plural": "workloads"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1beta2",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
"""Kueue's kind of object that says whether a RayJob may run; its fields are Kueue's, unchecked here."""


@pytest.fixture(scope="session")
def crds_folder() -> Path:
    """Return the folder of KubeRay's CustomResourceDefinitions; skip the test where there is none."""
    folder = Path(os.environ.get("SWEEPER_CRDS_DIR", ROOT.parent / "shared" / "kuberay-crds"))
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist: put KubeRay's CRDs into it, or name their folder in SWEEPER_CRDS_DIR")
    return folder


@pytest.fixture(scope="session")
def crds(crds_folder: Path) -> dict[str, Crd]:
    """Return KubeRay's CustomResourceDefinitions by kind."""
    found = [Crd(crds_folder / f"ray.io_{kind}.yaml") for kind in ("rayjobs", "rayclusters")]
    return {crd.kind: crd for crd in found}


@pytest.fixture(scope="session")
def rayjobs(crds_folder: Path) -> dict[str, Any]:
    """Return the CustomResourceDefinition of RayJobs, without the old versions of its schema."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # much faster for a megabyte
    crd: dict[str, Any] = yaml.load((crds_folder / "ray.io_rayjobs.yaml").read_text(), loader)
    crd["spec"]["versions"] = [version for version in crd["spec"]["versions"] if version["storage"]]
    return crd


@pytest.fixture(scope="session")
def control_plane(rayjobs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Return a control plane that knows RayJobs; skip the test where its programs are missing."""
    pytest.importorskip("kubernetes", reason="the package kubernetes is not installed: pip install 'sweeper[k8s]'")
    if missing := missing_programs():
        pytest.skip(
            f"no {', '.join(missing)}: put them into PATH, or name their folder in SWEEPER_KUBE_BIN. Debian's package "
            "etcd-server has etcd; tests/k8s/bare/build.sh builds the others"
        )
    with ControlPlane(tmp_path_factory.mktemp("control-plane"), [rayjobs, WORKLOAD_CRD]) as plane:
        yield plane


@pytest.fixture(scope="session")
def node(control_plane: ControlPlane) -> Iterator[Kubelet]:
    """Return the kubelet of the only node."""
    with Kubelet(control_plane.certificate) as kubelet:
        add_node(control_plane, kubelet)
        yield kubelet


@pytest.fixture
def make_namespace(
    control_plane: ControlPlane, node: Kubelet, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Namespace]:
    """Return a function that makes a namespace, in which the user of the kubeconfig has these rights."""
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig("someone")))
    node.drops, node.refusals = [], []

    def make(rules: list[dict[str, Any]] = RULES) -> Namespace:
        return Namespace(control_plane, node, f"test-{uuid.uuid4().hex[:8]}", rules)

    return make


@pytest.fixture
def namespace(make_namespace: Callable[..., Namespace]) -> Namespace:
    """Return a namespace in which the user of the kubeconfig has the Role of the manifests."""
    return make_namespace()
