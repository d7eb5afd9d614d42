"""KubeRay's CustomResourceDefinitions, where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def crds() -> Path:
    """The folder of KubeRay's CustomResourceDefinitions."""
    folder = Path(os.environ.get("SWEEPER_CRDS_DIR", ROOT.parent / "shared" / "kuberay-crds"))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: put KubeRay's CRDs into it, or name their folder in SWEEPER_CRDS_DIR")
    return folder
