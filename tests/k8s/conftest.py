"""KubeRay's CustomResourceDefinitions, where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.k8s.crd import Crd

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def crds() -> dict[str, Crd]:
    """KubeRay's CustomResourceDefinitions, by kind."""
    folder = Path(os.environ.get("SWEEPER_CRDS_DIR", ROOT.parent / "shared" / "kuberay-crds"))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: put KubeRay's CRDs into it, or name their folder in SWEEPER_CRDS_DIR")
    found = [Crd(folder / f"ray.io_{kind}.yaml") for kind in ("rayjobs", "rayclusters")]
    return {crd.kind: crd for crd in found}
