"""Fixtures of the tests on a live cluster: a namespace with the stores, as k8s/README.md describes it, and its sweeps.

Environment: KUBECONFIG names the cluster, SWEEPER_K8S_IMAGE the image that its nodes have or can pull. Optional:
SWEEPER_K8S_OVERLAY (default: k8s/overlays/small), SWEEPER_K8S_NAMESPACE (sweeper-tests; deleted and created),
SWEEPER_K8S_KEEP (use the namespace that an earlier run has left, and leave it), SWEEPER_K8S_TABLE (a file to which each
test appends what it measured), SWEEPER_K8S_STOP_API and SWEEPER_K8S_START_API (commands, for the test without the API
server).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.conftest import ROOT
from tests.k8s.live.cluster import Cluster, Object
from tests.k8s.live.sweeps import Inspector, LiveSweep
from tests.k8s.manifests import built, one

IMAGE = os.environ.get("SWEEPER_K8S_IMAGE", "")
OVERLAY = Path(os.environ.get("SWEEPER_K8S_OVERLAY", ROOT / "k8s" / "overlays" / "small")).absolute()
NAMESPACE = os.environ.get("SWEEPER_K8S_NAMESPACE", "sweeper-tests")
OURS = "sweeper-tests"
"""Label of a namespace that these tests may delete."""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return the namespace with the stores: steps 3 and 4 of k8s/README.md, with the image under test."""
    if not IMAGE or not shutil.which("kubectl"):
        pytest.fail("these tests need kubectl, and SWEEPER_K8S_IMAGE: the image that the cluster has or can pull")
    cluster = Cluster(NAMESPACE, tmp_path_factory.mktemp("live"))
    require_operator(cluster)
    keeps, found = bool(os.environ.get("SWEEPER_K8S_KEEP")), cluster.find("namespace", NAMESPACE)
    if found is not None and found["metadata"].get("labels", {}).get(OURS) != "true":
        pytest.fail(f"namespace {NAMESPACE} exists and is not of these tests; name another in SWEEPER_K8S_NAMESPACE")
    if found is not None and not keeps:
        cluster.kubectl("delete", "namespace", NAMESPACE, timeout_s=300)
    if found is None or not keeps:
        create_secrets(cluster)
    wrap_overlay(cluster)
    cluster.kubectl("apply", "-k", str(cluster.folder / "overlay"))
    cluster.kubectl("label", "namespace", NAMESPACE, f"{OURS}=true", "--overwrite")
    for workload in ("statefulset/postgres", "deployment/mlflow"):
        try:
            cluster.kubectl("rollout", "status", workload, "--timeout=300s", timeout_s=320)
        except subprocess.CalledProcessError as error:
            pytest.fail(f"{error}\n{cluster.explain()}")
    cluster.kubeconfig = kubeconfig_of(cluster, "submitter", role="sweeper-submitter")
    yield cluster
    if not keeps:
        cluster.kubectl("delete", "namespace", NAMESPACE, timeout_s=300)


def require_operator(cluster: Cluster) -> None:
    if cluster.find("crd", "rayjobs.ray.io") is None:
        pytest.fail("the cluster has no KubeRay: install its operator, step 2 of k8s/README.md")


def create_secrets(cluster: Cluster) -> None:
    """Run step 3 of k8s/README.md as it is written there, in the namespace of the tests."""
    (commands,) = re.findall(r"^3\. .*?```sh\n(.*?)```", (ROOT / "k8s" / "README.md").read_text(), re.DOTALL | re.M)
    commands = re.sub(r"(-n|create namespace) sweeper\b", rf"\1 {cluster.namespace}", commands)
    done = subprocess.run(["bash", "-euc", commands], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def wrap_overlay(cluster: Cluster) -> None:
    """Write an overlay on the overlay, with the namespace and the image of the tests; write what it builds."""
    name, _, tag = IMAGE.rpartition(":")
    job = one(built(OVERLAY), "RayJob")["spec"]["submitterPodTemplate"]["spec"]
    before = job["containers"][0]["image"].rpartition(":")[0]
    folder = cluster.folder / "overlay"
    folder.mkdir()
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": cluster.namespace,
        "resources": [os.path.relpath(OVERLAY, folder.resolve())],
        "images": [{"name": before, "newName": name, "newTag": tag}],
    }
    (folder / "kustomization.yaml").write_text(json.dumps(kustomization))
    cluster.rayjob.write_text(cluster.kubectl("kustomize", str(folder)))


def kubeconfig_of(cluster: Cluster, account: str, role: str = "") -> str:
    """Return the path of a kubeconfig for a new service account with a role, or without any right."""
    subject = {"kind": "ServiceAccount", "name": account, "namespace": cluster.namespace}
    made: list[Object] = [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}}]
    if role:
        group = "rbac.authorization.k8s.io"
        binding = {"apiVersion": f"{group}/v1", "kind": "RoleBinding", "metadata": {"name": f"tests-{account}"}}
        made.append(binding | {"roleRef": {"apiGroup": group, "kind": "Role", "name": role}, "subjects": [subject]})
    cluster.apply(*made)
    token = cluster.kubectl("create", "token", account, "--duration=6h").strip()
    config: Any = json.loads(cluster.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    config["users"] = [{"name": account, "user": {"token": token}}]
    config["contexts"][0]["context"]["user"] = account
    file = cluster.folder / f"{account}.kubeconfig"
    file.touch(mode=0o600)
    file.write_text(json.dumps(config))
    return str(file)


@pytest.fixture(scope="session")
def inspector(cluster: Cluster) -> Iterator[Inspector]:
    inspector = Inspector(cluster, IMAGE)
    yield inspector
    inspector.close()


@pytest.fixture(scope="session")
def first_sweep(cluster: Cluster, inspector: Inspector) -> LiveSweep:
    """Return the sweep that step 4 of k8s/README.md has begun, after it has ended: later sweeps need its place."""
    sweep = LiveSweep(cluster, inspector, "quick")
    sweep.wait_for_state("Complete", "Failed", timeout_s=900)
    return sweep


@pytest.fixture
def make_live_sweep(
    cluster: Cluster, inspector: Inspector, first_sweep: LiveSweep
) -> Iterator[Callable[..., LiveSweep]]:
    """Return a function that makes a sweep of a name; it is deleted after the test."""
    made: list[LiveSweep] = []

    def make(name: str, **changes: Any) -> LiveSweep:
        made.append(LiveSweep(cluster, inspector, name, **changes))
        return made[-1]

    yield make
    for sweep in made:
        sweep.remove()


@pytest.fixture
def record(record_property: Callable[[str, Any], None]) -> Callable[..., None]:
    """Return a function that records a row: the fault, seconds until the sweep reports again, and what was seen."""

    def record(fault: str, seconds: float | None, seen: str) -> None:
        line = f"{fault}\t{'' if seconds is None else f'{seconds:.0f}'}\t{seen}"
        print(f"\n{line}")
        for name, value in {"fault": fault, "seconds": seconds, "seen": seen}.items():
            record_property(name, value)
        if table := os.environ.get("SWEEPER_K8S_TABLE"):
            with Path(table).open("a") as file:
                file.write(f"{time.strftime('%FT%T')}\t{line}\n")

    return record
