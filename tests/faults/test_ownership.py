"""The folder of a sweep belongs to one study: two sweeps want it at once, or the study's database is removed."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.harness import PAPER, PATIENCE_S, Campaign
from tests.faults.test_processes import starts

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]

Record = Callable[[str, str], None]


def start_two_in_one_folder(campaign: Campaign, folder: Path) -> list[tuple[Campaign, subprocess.Popen[bytes]]]:
    """Start a sweep from each of two databases into `folder / "shared"`, at nearly the same time."""
    pair = [Campaign(folder / name, campaign.random.randrange(2**32)) for name in ("first", "second")]
    runs = []
    for each in pair:
        each.folder.mkdir(parents=True)
        each.declare(PAPER)
        runs.append(each.start("--dir", str(folder / "shared")))
        time.sleep(campaign.random.choice([0, 0, 0.1, 1]))
    return list(zip(pair, runs, strict=True))


def test_one_of_two_sweeps_in_one_folder_is_refused(
    campaign: Campaign, record: Record, pytestconfig: pytest.Config
) -> None:
    times = pytestconfig.getoption("--times")
    for turn in range(times):
        folder = campaign.folder / str(turn)
        pair = start_two_in_one_folder(campaign, folder)
        try:
            codes = [run.wait(PATIENCE_S) for _, run in pair]
            outputs = "\n".join(each.output() for each, _ in pair)
            assert sorted(codes) == [0, 2], outputs
            (winner, _), (loser, _) = sorted(pair, key=lambda each: each[1].returncode)
            assert f"another process runs a sweep in {folder / 'shared'}" in loser.output(), outputs
            assert loser.history() == []
            assert {path.name for path in loser.folder.iterdir()} <= {
                "sweep.yaml",
                "000.log",
                *(f"sweeper.db{end}" for end in ("", "-wal", "-shm")),
            }
            assert loser.sweeper("list", "--storage", loser.storage).returncode == 2  # nothing of it is left
            owner = json.loads((folder / "shared" / "study.json").read_text())
            assert owner["storage"] == winner.storage
            winner.check()
        finally:
            for each, _ in pair:
                each.clean_up()
    record(
        "two sweeps of one name, from two databases, started at once into one `--dir`",
        f"{times} times: one runs to its end, one exits with 2 and leaves nothing",
    )


def content_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_run_whose_database_is_removed_stops_and_keeps_its_checkpoints(campaign: Campaign, record: Record) -> None:
    campaign.declare(PAPER, budget={"trials": 6, "epochs": 100})
    run = campaign.start()
    campaign.wait_for(lambda: starts(campaign), run)
    campaign.wait_for_lines(campaign.random.randint(3, 20), run)
    for file in campaign.folder.glob("sweeper.db*"):
        file.unlink()
    began = time.monotonic()
    assert run.wait(PATIENCE_S) == 74, campaign.output()
    seconds = time.monotonic() - began
    assert "sweeper.db was removed or replaced; stopping" in campaign.output()
    campaign.wait_for_exit()
    sweep = campaign.folder / "sweeps" / "paper"
    before, lines = content_of(sweep), len(campaign.history())
    assert list(sweep.glob("trials/*/attempt-*"))
    again = campaign.start()
    assert again.wait(PATIENCE_S) == 2, campaign.output()
    assert "belongs to an earlier study of that name" in campaign.output()
    assert content_of(sweep) == before and len(campaign.history()) == lines
    assert not list(campaign.folder.glob("sweeper.db*"))
    record(
        "`rm sweeper.db*` while a sweep runs",
        f"it stops after {seconds:.0f} s with exit code 74; the same command is refused with 2, the checkpoints stay",
    )
