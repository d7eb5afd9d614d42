"""A node of a real cluster is killed while others live, and one is added."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from ray.cluster_utils import Cluster

from sweeper.studies import read_study
from tests.faults.harness import PAPER, Campaign

Say = Callable[..., None]

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.fixture
def cluster(campaign: Campaign) -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


def test_a_node_is_killed_and_one_is_added(campaign: Campaign, cluster: Cluster, say: Say) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    campaign.declare(PAPER, budget={"trials": 9, "epochs": 40, "max_failures": 0})
    driver = campaign.start("--insecure", RAY_ADDRESS=cluster.address)
    campaign.wait_for(lambda: sum(line.what == "start" for line in campaign.history()) >= 3, driver)
    campaign.wait_for_lines(campaign.random.randint(1, 60), driver)
    cluster.remove_node(campaign.random.choice(nodes), allow_graceful=False)
    killed = time.monotonic()
    cluster.add_node(num_cpus=1)
    campaign.wait_for(lambda: any(line.attempt > 1 for line in campaign.history()), driver)
    seconds = time.monotonic() - killed
    assert driver.wait(240) == 0, campaign.said()
    campaign.judge()
    study = read_study("paper", campaign.storage)
    assert {row.state for row in study.rows()} == {"COMPLETE"}
    attempts = [attempt for past in study.history.all().values() for attempt in past]
    assert {attempt.kind for attempt in attempts} == {"node"}
    say(
        "`kill -9` of a node of three, another one added",
        f"its trial went on elsewhere after {seconds:.0f} s, attempts lost: {len(attempts)}, none of them counted",
    )
