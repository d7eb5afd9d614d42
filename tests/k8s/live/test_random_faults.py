"""Ten faults at random moments of one sweep on a live cluster, also while it recovers from the one before."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.k8s.live.cluster import SELDOM_FAILS
from tests.k8s.live.sweeps import SMALL, LiveSweep
from tests.k8s.live.test_faults import FEW, FORCE, kill

pytestmark = [pytest.mark.k8s, pytest.mark.timeout(3600)]

FAULTS = 10
LONGEST_PAUSE_S = 60.0
"""Between two faults; a lost worker is back after 20 to 40 s, a lost head after 90, so that some hit a recovery."""

AWAY_S = 30.0


def test_ten_faults_at_random_moments_lose_nothing(
    make_live_sweep: Callable[..., LiveSweep], record: Callable[..., None]
) -> None:
    seed = int(os.environ.get("SWEEPER_K8S_SEED", time.time()))
    draw = random.Random(seed)
    sweep = make_live_sweep("random", budget={"trials": 500, "epochs": 30, "parallel": 1})
    sweep.submit()
    before, began = sweep.wait_for_trial(), time.time()
    caused: list[str] = []
    while len(caused) < FAULTS:
        time.sleep(draw.uniform(0, LONGEST_PAUSE_S))
        fault = draw.choice(list(KINDS))
        try:
            found = KINDS[fault](sweep)
        except SELDOM_FAILS as error:
            print(f"{time.time() - began:6.0f} s  {fault}: not done, {error}")
            continue
        print(f"{time.time() - began:6.0f} s  {fault}" + ("" if found else ": there was none at this moment"))
        caused += [fault] * found
    resumed = sweep.wait_for_report(time.time())
    sweep.check_ended(before)
    lasted, status = resumed - began, sweep.wait_for_state("Running", "Failed")
    if status["jobDeploymentStatus"] == "Running":
        assert sweep.cluster.sweeper("stop", sweep.name, *sweep.where).code == 0
    # A total below what has started: the trial that was interrupted ends, and no other begins.
    sweep.file.write_text(json.dumps(json.loads(sweep.file.read_text()) | {"budget": SMALL["budget"] | FEW}))
    assert f"{sweep.name} resumes" in sweep.submit().text
    sweep.wait_for_state("Complete")
    sweep.check_whole()
    rows: list[Any] = sweep.progress()["rows"]
    assert {row["state"] for row in rows} == {"COMPLETE"}
    attempts = sum(row["attempt"] for row in rows)
    kinds = ", ".join(f"{count} x {fault}" for fault, count in Counter(caused).items())
    seen = f"{kinds} (seed {seed}): {len(rows)} trials, each once, {attempts} attempts; study equal to MLflow"
    record(f"{FAULTS} random faults in {lasted:.0f} s", resumed - began, seen)


def pod_deleted(node_type: str) -> Callable[[LiveSweep], bool]:
    def cause(sweep: LiveSweep) -> bool:
        pods = sweep.pods(node_type)
        for pod in pods:
            sweep.cluster.kubectl("delete", "pod", pod["metadata"]["name"], *FORCE)
        return bool(pods)

    return cause


def store_deleted(label: str) -> Callable[[LiveSweep], bool]:
    def cause(sweep: LiveSweep) -> bool:
        pods = sweep.cluster.items("pods", f"app.kubernetes.io/name={label}")
        for pod in pods:
            sweep.cluster.kubectl("delete", "pod", pod["metadata"]["name"], *FORCE)
        return bool(pods)

    return cause


def process_killed(*pattern: str) -> Callable[[LiveSweep], bool]:
    def cause(sweep: LiveSweep) -> bool:
        running = [pod for pod in sweep.pods("worker") if pod["status"].get("phase") == "Running"]
        for pod in running:
            kill(sweep, pod["metadata"]["name"], "ray-worker", *pattern)
        return bool(running)

    return cause


def api_server_away(sweep: LiveSweep) -> bool:
    stop, start = os.environ.get("SWEEPER_K8S_STOP_API"), os.environ.get("SWEEPER_K8S_START_API")
    if not stop or not start:
        return False
    subprocess.run(stop, shell=True, check=True)
    try:
        time.sleep(AWAY_S)
    finally:
        subprocess.run(start, shell=True, check=True)
    with contextlib.suppress(*SELDOM_FAILS):
        sweep.cluster.wait_for("the API server", lambda: sweep.cluster.items("pods"), 60)
    return True


KINDS: dict[str, Callable[[LiveSweep], bool]] = {
    "worker's pod deleted": pod_deleted("worker"),
    "head's pod deleted": pod_deleted("head"),
    "raylet of the worker killed": process_killed("-x", "raylet"),
    "trial's process killed": process_killed("-f", "^ray::_Inner"),
    "database's pod deleted": store_deleted("postgres"),
    "MLflow's pod deleted": store_deleted("mlflow"),
    "API server away": api_server_away,
}
