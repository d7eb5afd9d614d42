from __future__ import annotations

from pathlib import Path

import pytest

from tests.environments import beside


@pytest.fixture(scope="session")
def cluster_python() -> Path:
    """Return the Python of an environment that has Ray's dashboard; here it would slow each start of Ray."""
    return beside("cluster", "ray[default]")
