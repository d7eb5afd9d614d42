"""Full disks and locked databases under a running sweep: it waits, and continues by itself."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.harness import PAPER, PATIENCE_S, Campaign
from tests.faults.test_durability import fill
from tests.faults.test_processes import starts

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system"),
]

Record = Callable[[str, str], None]


@pytest.fixture
def small(campaign: Campaign) -> Iterator[Path]:
    """Mount a file system of 8 MB for what a sweep writes, except MLflow's store and the campaign's own files."""
    folder = campaign.folder / "small"
    folder.mkdir()
    mounted(folder, "8m")
    yield folder
    campaign.clean_up()
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def mounted(folder: Path, size: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=True)


@pytest.fixture
def small_for_ray(campaign: Campaign) -> Iterator[Path]:
    """Mount a file system of 24 MB for Ray's own files; its path is short, because Ray puts sockets there."""
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    mounted(folder, "24m")
    yield folder
    campaign.clean_up()
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


@pytest.mark.parametrize("what", ["sweeps", "sweeper.db"])
def test_sweep_waits_for_room_on_a_full_disk_and_loses_nothing(
    campaign: Campaign, record: Record, small: Path, what: str
) -> None:
    if what == "sweeps":
        (small / what).mkdir()
    (campaign.folder / what).symlink_to(small / what)
    campaign.declare(PAPER, budget={"trials": 6, "epochs": 30})
    run = campaign.start()
    campaign.wait_for(lambda: starts(campaign), run)
    campaign.wait_for_lines(campaign.random.randint(3, 30), run)
    filler = fill(small)
    campaign.wait_for(lambda: "disk full on" in campaign.output(), run)
    time.sleep(campaign.random.uniform(1, 5))
    paused_at = len(campaign.history())
    time.sleep(3)
    assert len(campaign.history()) <= paused_at + 2
    filler.unlink()
    assert run.wait(PATIENCE_S) == 0, campaign.output()
    campaign.check()
    name = {"sweeps": "the checkpoints", "sweeper.db": "the study's database"}[what]
    record(f"a full disk under {name}", "one line reports it; the sweep waits, and continues when there is room")


def test_sweep_waits_for_a_database_that_another_process_locks(campaign: Campaign, record: Record) -> None:
    campaign.declare(PAPER, budget={"trials": 6, "epochs": 30})
    run = campaign.start()
    campaign.wait_for(lambda: starts(campaign), run)
    campaign.wait_for_lines(campaign.random.randint(3, 30), run)
    for seconds, is_announced in ((2, False), (30, True)):
        with closing(sqlite3.connect(campaign.folder / "sweeper.db", timeout=60, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            time.sleep(seconds)
            other.execute("ROLLBACK")
        campaign.wait_for_lines(4, run)
        waits = "is unavailable (locked by another process). Trials wait" in campaign.output()
        assert waits == is_announced, campaign.output()
    assert run.wait(PATIENCE_S) == 0, campaign.output()
    campaign.check()
    record("the study's database locked for 2 s, and for 30 s", "no message for the first, one line for the second")


def test_full_disk_under_ray_is_refused_at_first_and_tolerated_later(
    campaign: Campaign, record: Record, small_for_ray: Path
) -> None:
    campaign.declare(PAPER, budget={"trials": 6, "epochs": 30})
    filler = fill(small_for_ray)
    run, began = campaign.start(RAY_TMPDIR=str(small_for_ray)), time.monotonic()
    assert run.wait(PATIENCE_S) == 2, campaign.output()
    seconds = time.monotonic() - began
    assert f"error: cannot write to {small_for_ray} (its disk is full, 0.0 MB free)" in campaign.output()
    assert not (campaign.folder / "sweeper.db").exists()
    filler.unlink()

    run = campaign.start(RAY_TMPDIR=str(small_for_ray))
    campaign.wait_for(lambda: starts(campaign), run)
    campaign.wait_for_lines(campaign.random.randint(3, 30), run)
    filler = fill(small_for_ray)
    campaign.kill(campaign.random.choice(campaign.trainers()))
    assert run.wait(PATIENCE_S) == 0, campaign.output()
    campaign.check()
    record(
        "a full disk under Ray's files",
        f"refused within {seconds:.1f} s; a running sweep continues, a killed worker too",
    )
