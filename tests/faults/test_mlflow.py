"""MLflow is down, slow, hangs, fails or loses answers: the sweep keeps its speed, and MLflow is complete afterwards."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.checker import differing_copies, read_outcome
from tests.faults.harness import PAPER, PATIENCE_S, Campaign
from tests.faults.network import Network
from tests.tracking.tools import Server

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]

Record = Callable[[str, str], None]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    yield server
    server.kill()


@pytest.fixture
def network(server: Server, seed: int) -> Iterator[Network]:
    network = Network(server.port, seed)
    yield network
    network.close()


def sync(campaign: Campaign) -> str:
    """Run `sweeper sync` and return its output."""
    done = campaign.sweeper("sync", campaign.sweep["name"], "--tracking-uri", campaign.tracking_uri)
    assert done.returncode == 0, done.stderr
    return done.stdout


def acknowledged(campaign: Campaign, seconds: float) -> int:
    """Return how many reports of a running sweep are acknowledged in so many seconds."""
    before = sum(line.what == "ack" for line in campaign.history())
    time.sleep(seconds)
    return sum(line.what == "ack" for line in campaign.history()) - before


def test_mlflow_that_is_down_delays_nothing(campaign: Campaign, record: Record, server: Server) -> None:
    campaign.declare(PAPER)
    campaign.tracking_uri = server.url
    server.kill()
    run = campaign.start()
    assert run.wait(PATIENCE_S) == 69, campaign.output()
    assert "MLflow does not have everything yet" in campaign.output()
    server.start()
    first, second = sync(campaign), sync(campaign)
    assert second.startswith("0 records")
    campaign.check()
    record(
        "MLflow down from start to end", f"exit 69 with a note; then `sweeper sync`: {first.split(' of')[0]}, again: 0"
    )


def test_restarted_mlflow_receives_everything(campaign: Campaign, record: Record, server: Server) -> None:
    campaign.declare(PAPER, budget={"trials": 120, "epochs": 10})
    campaign.tracking_uri = server.url
    run = campaign.start()
    campaign.wait_for_lines(campaign.random.randint(10, 60), run)
    server.kill()
    campaign.wait_for_lines(150, run)
    server.start()
    assert run.wait(PATIENCE_S) == 0, campaign.output()
    assert sync(campaign).startswith("0 records")
    campaign.check()
    assert "does not answer" in campaign.output() and "answers again" in campaign.output(), campaign.output()
    record(
        "MLflow killed in the middle, restarted later",
        "one line when it stops, one when it answers again; complete, each record once",
    )


@pytest.mark.parametrize("mood", ["slow", "hangs", "errors", "loses"])
def test_bad_network_to_mlflow_costs_no_report(
    campaign: Campaign, record: Record, server: Server, network: Network, mood: str
) -> None:
    campaign.declare(PAPER, budget={"trials": 120, "epochs": 10})
    campaign.tracking_uri = network.url
    run = campaign.start()
    campaign.wait_for_lines(100, run)
    calm = acknowledged(campaign, 8)
    network.mood = mood
    troubled = acknowledged(campaign, 16) / 2
    network.mood = mood if mood == "loses" else "passes"
    assert run.wait(PATIENCE_S) in (0, 69), campaign.output()  # 69 if the last answers were lost
    network.mood = "passes"
    sync(campaign)
    campaign.tracking_uri = server.url
    campaign.check()
    assert troubled > 0.7 * calm, f"{calm} reports in 8 s before, {troubled} with the fault"
    lost = f"{network.lost} answers lost, " if mood == "loses" else ""
    record(
        f"the network to MLflow {mood}",
        f"{lost}{troubled / calm:.0%} of the reports per second before; complete, each record once",
    )


def test_ten_minutes_without_mlflow_cost_no_speed(
    campaign: Campaign, record: Record, server: Server, pytestconfig: pytest.Config
) -> None:
    """Measure with MLflow, without it, and with it again, so that a slow change of the machine counts on both sides."""
    window = pytestconfig.getoption("--minutes") * 60 / 3
    trials = int(2 * window * 2 / 5) + 40  # two at a time, at least 5 s each: more than can end in time
    campaign.declare(PAPER, budget={"trials": trials, "epochs": 50})
    campaign.tracking_uri = server.url
    run: subprocess.Popen[Any] = campaign.start()
    campaign.wait_for_lines(100, run)
    before = acknowledged(campaign, window / 2)
    server.kill()
    without = acknowledged(campaign, window)
    server.start()
    after = acknowledged(campaign, window / 2)
    run.terminate()
    assert run.wait(PATIENCE_S) == 143, campaign.output()
    sync(campaign)
    ratio = without / (before + after)
    assert ratio > 0.95, f"{before} and {after} reports with MLflow, {without} without"
    outcome = read_outcome(campaign.folder, "paper", campaign.storage, server.url)
    assert list(differing_copies(outcome)) == []
    record(
        f"{window / 60:g} minutes without MLflow", f"{without} reports against {before + after} with it: {ratio:.1%}"
    )
