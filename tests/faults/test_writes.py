"""The driver is killed before and after each durable write; the resumed study is the same each time."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.harness import PAPER, Campaign
from tests.faults.light import Point, run_light

SWEEP = PAPER | {
    "budget": {"trials": 6, "epochs": 2, "parallel": 1},
    "space": {"height": {"type": "float", "low": 0, "high": 1, "step": 0.2}, "pause": 0.0},
    "sampler": {"type": "grid"},  # a sampler with a model is seeded anew by each run, so that it repeats no points
    "pruner": {"type": "median", "n_startup_trials": 2, "min_epochs": 1},
}

pytestmark = pytest.mark.usefixtures("own_tests_first")


def run(campaign: Campaign, point: Point | None) -> int | None:
    """Run the sweep in a process forked from one with all imports; return its exit code, negative for a signal."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.faults.light"])
    process = server.Process(target=run_light, args=(campaign.folder, campaign.tracking_uri, point))
    process.start()
    process.join(120)
    return process.exitcode


def writes(folder: Path) -> dict[str, int]:
    study, mlflow = map(int, (folder / "writes").read_text().split())
    return {"study": study, "mlflow": mlflow}


def kill_and_compare(undisturbed: Campaign, folder: Path, point: Point) -> bool:
    """Kill a sweep at a point, resume it to its end, and compare it; return False if it ended before the point."""
    folder.mkdir()
    campaign = Campaign(folder, 0)
    campaign.declare(SWEEP)
    code = run(campaign, point)
    assert code in (0, -signal.SIGKILL), f"{point}: exit code {code}"
    assert run(campaign, None) == 0, point
    campaign.check()
    assert campaign.fingerprint() == undisturbed.fingerprint(), f"killed at {point}"
    return code != 0


@pytest.fixture
def undisturbed(campaign: Campaign) -> Campaign:
    campaign.declare(SWEEP)
    assert run(campaign, None) == 0
    campaign.check()
    assert {state for _, state, *_ in campaign.fingerprint()} == {"COMPLETE", "PRUNED"}
    return campaign


@pytest.mark.long  # test_driver_killed_at_each_write is the row of the campaign
@pytest.mark.timeout(600)
def test_driver_killed_at_some_writes_leaves_the_same_study(undisturbed: Campaign, tmp_path: Path) -> None:
    count = writes(tmp_path)["study"]
    for place in undisturbed.random.sample(range(1, count + 1), 3):
        point = Point("study", place, undisturbed.random.choice(["before", "after"]))
        assert kill_and_compare(undisturbed, tmp_path / f"{place}", point)


@pytest.mark.faults
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", [1])  # nothing in it is random
@pytest.mark.parametrize("thread", ["study", "mlflow"])
def test_driver_killed_at_each_write_leaves_the_same_study(
    undisturbed: Campaign, tmp_path: Path, record: Callable[[str, str], None], thread: str
) -> None:
    count = writes(tmp_path)[thread]
    points = [Point(thread, place, moment) for place in range(1, count + 1) for moment in ("before", "after")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # each sweep runs in processes of its own
        killed = sum(pool.map(lambda p: kill_and_compare(undisturbed, tmp_path / f"{p.count}-{p.moment}", p), points))
    assert killed > len(points) / 2  # the thread of MLflow may combine writes, and end before some of the points
    seen = f"{count} writes, {killed} kills; each time the study equals, bit for bit, that of a sweep never killed"
    record(f"`kill -9` of the driver before and after each durable write of its {thread} thread", seen)
