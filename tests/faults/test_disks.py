"""Disks that are full and databases that are locked under a sweep that runs: it waits, and goes on by itself."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.harness import PAPER, PATIENCE, Campaign
from tests.faults.test_durability import fill
from tests.faults.test_processes import starts

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system"),
]

Say = Callable[[str, str], None]


@pytest.fixture
def small(campaign: Campaign) -> Iterator[Path]:
    """A file system of 8 MB that holds what a sweep writes, but for MLflow's store and the campaign's own files."""
    folder = campaign.folder / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)], check=True)
    yield folder
    campaign.clean_up()
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("what", ["sweeps", "sweeper.db"])
def test_a_full_disk_holds_a_sweep_up_and_loses_nothing(campaign: Campaign, say: Say, small: Path, what: str) -> None:
    if what == "sweeps":
        (small / what).mkdir()
    (campaign.folder / what).symlink_to(small / what)
    campaign.declare(PAPER, budget={"trials": 6, "epochs": 30})
    run = campaign.start()
    campaign.wait_for(lambda: starts(campaign), run)
    campaign.wait_for_lines(campaign.random.randint(3, 30), run)
    filler = fill(small)
    campaign.wait_for(lambda: "disk full on" in campaign.said(), run)
    time.sleep(campaign.random.uniform(1, 5))
    standing = len(campaign.history())
    time.sleep(3)
    assert len(campaign.history()) <= standing + 2
    filler.unlink()
    assert run.wait(PATIENCE) == 0, campaign.said()
    campaign.judge()
    name = {"sweeps": "the checkpoints", "sweeper.db": "the study's database"}[what]
    say(f"a full disk under {name}", "one line says so; the sweep stands still, and goes on when there is room")


def test_a_database_that_another_process_locks_is_waited_for(campaign: Campaign, say: Say) -> None:
    campaign.declare(PAPER, budget={"trials": 6, "epochs": 30})
    run = campaign.start()
    campaign.wait_for(lambda: starts(campaign), run)
    campaign.wait_for_lines(campaign.random.randint(3, 30), run)
    for seconds, is_said in ((2, False), (30, True)):
        with closing(sqlite3.connect(campaign.folder / "sweeper.db", timeout=60, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            time.sleep(seconds)
            other.execute("ROLLBACK")
        campaign.wait_for_lines(4, run)
        assert ("is away (locked by another process): waiting" in campaign.said()) == is_said, campaign.said()
    assert run.wait(PATIENCE) == 0, campaign.said()
    campaign.judge()
    say("the study's database locked for 2 s, and for 30 s", "the first is not noticed, of the second one line speaks")
