from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.core.errors import InputError, ResourceError
from sweeper.core.sweep_folder import SweepFolder
from sweeper.driver.preflight import preflight
from sweeper.spec import Sweep

MakeSweep = Callable[..., Sweep]


def check(sweep: Sweep, **options: Any) -> Sweep:
    return preflight(
        sweep, folder=SweepFolder.of("sweep", sweep.name), address=None, tracking_uri="sqlite:///mlflow.db", **options
    )


def test_sweep_too_large_for_this_machine_is_refused_first(make_sweep: MakeSweep) -> None:
    there = r"this machine has \d+ CPU and 0 GPU. Lower --cpus or --gpus"
    with pytest.raises(ResourceError, match=f"each trial needs 4000 CPU and 0 GPU; {there}"):
        check(make_sweep(resources={"cpus": 4000}))
    with pytest.raises(ResourceError, match=f"each trial needs 1 CPU and 0.5 GPU; {there}"):
        check(make_sweep(resources={"gpus": 0.5}))
    assert not list(Path.cwd().iterdir())


def test_this_machine_has_the_cpus_that_the_process_may_use(
    make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    with pytest.raises(ResourceError, match="this machine has 1 CPU"):
        check(make_sweep(resources={"cpus": 2}))
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 3, "GPU": 2}')
    check(make_sweep(resources={"cpus": 3, "gpus": 2}))


def test_folder_for_ray_that_is_not_writable_is_refused(make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/proc/nowhere")
    with pytest.raises(InputError, match="cannot write to /proc/nowhere .*: set RAY_TMPDIR to another folder"):
        check(make_sweep())


def test_sweep_on_a_cluster_is_not_judged_by_this_machine(
    make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    check(make_sweep(resources={"cpus": 4000}))
