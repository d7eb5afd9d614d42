from __future__ import annotations

from pathlib import Path

import pytest

from tests.environments import beside


@pytest.fixture(scope="session")
def cluster_python() -> Path:
    """The Python of a Ray cluster with its dashboard, which in this environment would slow each start of Ray."""
    return beside("cluster", "ray[default]")
