"""The driver killed before and after each durable write; the study that is left is the same each time."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.harness import PAPER, Campaign
from tests.faults.light import Point, run_light

SWEEP = PAPER | {
    "budget": {"trials": 6, "epochs": 2, "parallel": 1},
    "space": {"height": {"type": "float", "low": 0, "high": 1, "step": 0.2}, "pause": 0.0},
    "sampler": {"type": "grid"},  # a model of the trials is seeded anew by each run, so as not to repeat its points
    "pruner": {"type": "median", "n_startup_trials": 2, "min_epochs": 1},
}


def run(campaign: Campaign, point: Point | None) -> int | None:
    """The sweep in a process forked from one that has imported everything; its exit code, negative for a signal."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.faults.light"])
    process = server.Process(target=run_light, args=(campaign.folder, campaign.tracking_uri, point))
    process.start()
    process.join(120)
    return process.exitcode


def writes(folder: Path) -> dict[str, int]:
    study, mlflow = map(int, (folder / "writes").read_text().split())
    return {"study": study, "mlflow": mlflow}


def ends_as(undisturbed: Campaign, folder: Path, point: Point) -> bool:
    """Kill a sweep at a point, run it to its end, judge it; False when it ended before it came to the point."""
    folder.mkdir()
    campaign = Campaign(folder, 0)
    campaign.declare(SWEEP)
    code = run(campaign, point)
    assert code in (0, -signal.SIGKILL), f"{point}: exit code {code}"
    assert run(campaign, None) == 0, point
    campaign.judge()
    assert campaign.fingerprint() == undisturbed.fingerprint(), f"killed at {point}"
    return code != 0


@pytest.fixture
def undisturbed(campaign: Campaign) -> Campaign:
    campaign.declare(SWEEP)
    assert run(campaign, None) == 0
    campaign.judge()
    assert {state for _, state, *_ in campaign.fingerprint()} == {"COMPLETE", "PRUNED"}
    return campaign


@pytest.mark.timeout(600)
def test_a_driver_killed_at_some_of_its_writes_leaves_the_same_study(undisturbed: Campaign, tmp_path: Path) -> None:
    count = writes(tmp_path)["study"]
    for place in undisturbed.random.sample(range(1, count + 1), 3):
        point = Point("study", place, undisturbed.random.choice(["before", "after"]))
        assert ends_as(undisturbed, tmp_path / f"{place}", point)


@pytest.mark.faults
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("thread", ["study", "mlflow"])
def test_a_driver_killed_at_each_of_its_writes_leaves_the_same_study(
    undisturbed: Campaign, tmp_path: Path, say: Callable[[str, str], None], thread: str
) -> None:
    count = writes(tmp_path)[thread]
    points = [Point(thread, place, moment) for place in range(1, count + 1) for moment in ("before", "after")]
    killed = sum(ends_as(undisturbed, tmp_path / f"{p.count}-{p.moment}", p) for p in points)
    assert killed > len(points) / 2  # the thread of MLflow need not come to all of them each time
    seen = f"{count} writes, {killed} kills; each time the study, to the bit, of a sweep never killed"
    say(f"`kill -9` of the driver before and after each durable write of its {thread} thread", seen)
