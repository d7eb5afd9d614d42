"""MLflow away, slow, hanging, failing, losing answers: the sweep goes on at its speed, and all of it is there after."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.checker import differing_copies, read_outcome
from tests.faults.harness import PAPER, PATIENCE, Campaign
from tests.faults.network import Network
from tests.tracking.tools import Server

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]

Say = Callable[[str, str], None]


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
    """What `sweeper sync` says."""
    done = campaign.sweeper("sync", campaign.sweep["name"], "--tracking-uri", campaign.tracking_uri)
    assert done.returncode == 0, done.stderr
    return done.stdout


def acknowledged(campaign: Campaign, seconds: float) -> int:
    """Reports on record that a running sweep makes in so many seconds."""
    before = sum(line.what == "ack" for line in campaign.history())
    time.sleep(seconds)
    return sum(line.what == "ack" for line in campaign.history()) - before


def test_mlflow_that_is_down_all_the_time_delays_nothing(campaign: Campaign, say: Say, server: Server) -> None:
    campaign.declare(PAPER)
    campaign.tracking_uri = server.url
    server.kill()
    run = campaign.start()
    assert run.wait(PATIENCE) == 0, campaign.said()
    assert "MLflow does not have everything yet" in campaign.said()
    server.start()
    first, second = sync(campaign), sync(campaign)
    assert second.startswith("0 records")
    campaign.judge()
    say("MLflow down from start to end", f"exit 0 with a note; then `sweeper sync`: {first.split(' of')[0]}, again: 0")


def test_mlflow_that_is_killed_and_returns_has_everything(campaign: Campaign, say: Say, server: Server) -> None:
    campaign.declare(PAPER, budget={"trials": 120, "epochs": 10})
    campaign.tracking_uri = server.url
    run = campaign.start()
    campaign.wait_for_lines(campaign.random.randint(10, 60), run)
    server.kill()
    campaign.wait_for_lines(150, run)
    server.start()
    assert run.wait(PATIENCE) == 0, campaign.said()
    assert sync(campaign).startswith("0 records")
    campaign.judge()
    assert "does not answer" in campaign.said() and "answers again" in campaign.said(), campaign.said()
    say("MLflow killed in the middle, back later", "one line when it goes, one when it is back; all there, once")


@pytest.mark.parametrize("mood", ["slow", "hangs", "errors", "loses"])
def test_a_bad_network_to_mlflow_costs_no_report(
    campaign: Campaign, say: Say, server: Server, network: Network, mood: str
) -> None:
    campaign.declare(PAPER, budget={"trials": 120, "epochs": 10})
    campaign.tracking_uri = network.url
    run = campaign.start()
    campaign.wait_for_lines(100, run)
    calm = acknowledged(campaign, 8)
    network.mood = mood
    troubled = acknowledged(campaign, 16) / 2
    network.mood = mood if mood == "loses" else "passes"
    assert run.wait(PATIENCE) == 0, campaign.said()
    network.mood = "passes"
    sync(campaign)
    campaign.tracking_uri = server.url
    campaign.judge()
    assert troubled > 0.7 * calm, f"{calm} reports in 8 s before, {troubled} then"
    lost = f"{network.lost} answers lost, " if mood == "loses" else ""
    say(
        f"the network to MLflow {mood}",
        f"{lost}{troubled / calm:.0%} of the reports per second before; all there once",
    )


def test_ten_minutes_without_mlflow_cost_no_speed(
    campaign: Campaign, say: Say, server: Server, pytestconfig: pytest.Config
) -> None:
    """With MLflow, without it, with it again: a slow change of the machine counts on both sides."""
    window = pytestconfig.getoption("--minutes") * 60 / 3
    trials = int(2 * window * 2 / 5) + 40  # two at a time, at least five seconds each: more than there is time for
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
    assert run.wait(PATIENCE) == 143, campaign.said()
    sync(campaign)
    ratio = without / (before + after)
    assert ratio > 0.95, f"{before} and {after} reports with MLflow, {without} without"
    outcome = read_outcome(campaign.folder, "paper", campaign.storage, server.url)
    assert list(differing_copies(outcome)) == []
    say(f"{window / 60:g} minutes without MLflow", f"{without} reports against {before + after} with it: {ratio:.1%}")
