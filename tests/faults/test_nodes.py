"""Nodes of a real cluster: one is killed, stopped or preempted while others live, and another one is added."""

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

Record = Callable[..., None]

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


_OBJECT_STORE_BYTES = 80_000_000
"""A node's memory for Ray's objects: the least that Ray accepts."""


@pytest.fixture
def cluster(campaign: Campaign) -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


def test_dataset_finds_room_in_an_object_store_that_is_full(campaign: Campaign, record: Record) -> None:
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES},
    )
    try:
        ray.init(cluster.address, log_to_driver=False)
        held = [ray.put(np.random.default_rng(number).random(_OBJECT_STORE_BYTES // 32)) for number in range(5)]
        data = {"type": "mnist", "fallback": "digits"}
        campaign.declare(KERAS, dataset=data, budget={"trials": 2, "epochs": 1})
        driver = campaign.start("--insecure", RAY_ADDRESS=cluster.address)
        assert driver.wait(240) == 0, campaign.output()
        assert all(len(ray.get(one)) == _OBJECT_STORE_BYTES // 32 for one in held)
        campaign.check()
    finally:
        ray.shutdown()
        cluster.shutdown()
    record("an object store that another job has filled", "the dataset finds room, and the other job keeps its objects")


def kill(cluster: Cluster, node: Any) -> None:
    cluster.remove_node(node, allow_graceful=False)


def stop(cluster: Cluster, node: Any) -> None:
    """Send SIGTERM, as `ray stop` does, and as a pod gets it when it ends."""
    cluster.remove_node(node, allow_graceful=True)


def preempt(cluster: Cluster, node: Any) -> None:
    """Announce the loss of the node, as the autoscaler of a cloud does, and kill it five seconds later."""
    ray = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", cluster.address]
    why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot", "--deadline-remaining-seconds", "5"]
    subprocess.run([*ray, "--node-id", node.node_id, *why], check=True, capture_output=True)
    time.sleep(5)
    cluster.remove_node(node, allow_graceful=False)


LOSSES = {
    "`kill -9` of a node of three": kill,
    "SIGTERM to a node of three": stop,
    "a node of three announced as preempted, gone in 5 s": preempt,
}


@pytest.mark.parametrize("how", LOSSES)
def test_trial_of_a_lost_node_resumes_on_another(
    campaign: Campaign, cluster: Cluster, record: Record, how: str
) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    campaign.declare(PAPER, budget={"trials": 9, "epochs": 40, "max_failures": 0})
    driver = campaign.start("--insecure", RAY_ADDRESS=cluster.address)
    campaign.wait_for(lambda: sum(line.what == "start" for line in campaign.history()) >= 3, driver)
    campaign.wait_for_lines(campaign.random.randint(1, 60), driver)
    lost_at = time.monotonic()
    LOSSES[how](cluster, campaign.random.choice(nodes))
    cluster.add_node(num_cpus=1)
    campaign.wait_for(lambda: any(line.attempt > 1 for line in campaign.history()), driver)
    seconds = time.monotonic() - lost_at
    assert driver.wait(240) == 0, campaign.output()
    campaign.check()
    study = read_study("paper", campaign.storage)
    assert {row.state for row in study.rows()} == {"COMPLETE"}
    attempts = [attempt for past in study.attempts().values() for attempt in past]
    assert {attempt.kind for attempt in attempts} == {"node"}
    lost = f"attempts lost: {len(attempts)}, none of them counted"
    record(f"{how}, another one added", f"its trial resumed on another node after {seconds:.0f} s, {lost}")
