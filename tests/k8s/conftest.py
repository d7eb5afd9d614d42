"""KubeRay's CustomResourceDefinitions, where this machine has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.k8s.crd import Crd

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def crds() -> dict[str, Crd]:
    """Return KubeRay's CustomResourceDefinitions by kind; skip the test where there are none."""
    folder = Path(os.environ.get("SWEEPER_CRDS_DIR", ROOT.parent / "shared" / "kuberay-crds"))
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist: put KubeRay's CRDs into it, or name their folder in SWEEPER_CRDS_DIR")
    found = [Crd(folder / f"ray.io_{kind}.yaml") for kind in ("rayjobs", "rayclusters")]
    return {crd.kind: crd for crd in found}
