"""A node of a real cluster goes while others live, killed, stopped or announced as preempted, and one is added."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster

from sweeper.study.open import read_study
from tests.faults.harness import KERAS, PAPER, Campaign

Say = Callable[..., None]

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


_STORE = 80_000_000
"""Bytes of a node's memory for Ray's objects: the least that Ray takes."""


@pytest.fixture
def cluster(campaign: Campaign) -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


def test_a_store_that_another_job_has_filled_holds_the_data_all_the_same(campaign: Campaign, say: Say) -> None:
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False, "object_store_memory": _STORE}
    )
    try:
        ray.init(cluster.address, log_to_driver=False)
        held = [ray.put(np.random.default_rng(number).random(_STORE // 32)) for number in range(5)]
        data = {"type": "mnist", "fallback": "digits"}
        campaign.declare(KERAS, dataset=data, budget={"trials": 2, "epochs": 1})
        driver = campaign.start("--insecure", RAY_ADDRESS=cluster.address)
        assert driver.wait(240) == 0, campaign.said()
        assert all(len(ray.get(one)) == _STORE // 32 for one in held)
        campaign.judge()
    finally:
        ray.shutdown()
        cluster.shutdown()
    say("an object store that another job has filled", "the dataset finds room, and the other job keeps its objects")


def killed(cluster: Cluster, node: Any) -> None:
    cluster.remove_node(node, allow_graceful=False)


def stopped(cluster: Cluster, node: Any) -> None:
    """SIGTERM, as `ray stop` and the end of a pod send it."""
    cluster.remove_node(node, allow_graceful=True)


def preempted(cluster: Cluster, node: Any) -> None:
    """Announced by whoever takes the node, as the autoscaler of a cloud does; five seconds later it is gone."""
    ray = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", cluster.address]
    why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot", "--deadline-remaining-seconds", "5"]
    subprocess.run([*ray, "--node-id", node.node_id, *why], check=True, capture_output=True)
    time.sleep(5)
    cluster.remove_node(node, allow_graceful=False)


GOES = {
    "`kill -9` of a node of three": killed,
    "SIGTERM to a node of three": stopped,
    "a node of three announced as preempted, gone in 5 s": preempted,
}


@pytest.mark.parametrize("how", GOES)
def test_a_node_goes_and_one_is_added(campaign: Campaign, cluster: Cluster, say: Say, how: str) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    campaign.declare(PAPER, budget={"trials": 9, "epochs": 40, "max_failures": 0})
    driver = campaign.start("--insecure", RAY_ADDRESS=cluster.address)
    campaign.wait_for(lambda: sum(line.what == "start" for line in campaign.history()) >= 3, driver)
    campaign.wait_for_lines(campaign.random.randint(1, 60), driver)
    gone = time.monotonic()
    GOES[how](cluster, campaign.random.choice(nodes))
    cluster.add_node(num_cpus=1)
    campaign.wait_for(lambda: any(line.attempt > 1 for line in campaign.history()), driver)
    seconds = time.monotonic() - gone
    assert driver.wait(240) == 0, campaign.said()
    campaign.judge()
    study = read_study("paper", campaign.storage)
    assert {row.state for row in study.rows()} == {"COMPLETE"}
    attempts = [attempt for past in study.attempts().values() for attempt in past]
    assert {attempt.kind for attempt in attempts} == {"node"}
    lost = f"attempts lost: {len(attempts)}, none of them counted"
    say(f"{how}, another one added", f"its trial went on elsewhere after {seconds:.0f} s, {lost}")
