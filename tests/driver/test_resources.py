"""What trials have to themselves, on a Ray that is told to have four CPUs and two GPUs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from sweeper.core.errors import ResourceError
from sweeper.driver.capacity import refuse_infeasible_on_cluster
from sweeper.driver.connection.cluster import ray_cluster
from sweeper.spec import Sweep
from sweeper.study.open import open_study, read_study
from sweeper.study.view import StudyView
from tests.runs import run_trials

MakeSweep = Callable[..., Sweep]

pytestmark = pytest.mark.long


@pytest.fixture(scope="module", autouse=True)
def cluster(no_ray: None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 4, "GPU": 2, "scratch": 1}')
        with ray_cluster(None):
            yield


def tune(sweep: Sweep) -> StudyView:
    with open_study(sweep) as study:
        run_trials(study)
    return read_study(sweep.name, sweep.storage_url())


def holders(make_sweep: MakeSweep, trials: int, resources: dict[str, Any], **space: Any) -> list[dict[str, Any]]:
    """Run a sweep; read what its trials wrote about their GPUs."""
    space |= {"height": {"type": "float", "low": 0.0, "high": 1.0}, "log": str(Path("gpus.jsonl").absolute())}
    sweep = make_sweep(
        trainable="tests.samples:hold_gpus", budget={"trials": trials, "epochs": 3}, space=space, resources=resources
    )
    assert {row.state for row in tune(sweep).rows()} == {"COMPLETE"}
    return [json.loads(line) for line in Path("gpus.jsonl").read_text().splitlines()]


def fullest(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Compute the highest share of each GPU that was in use at one moment."""
    devices = {device for line in lines for device in line["seen"].split(",")}
    moments = [line["began"] for line in lines]
    return {
        device: max(
            sum(
                min(1, line["gpus"]) for line in lines if device in line["seen"] and line["began"] <= at < line["ended"]
            )
            for at in moments
        )
        for device in devices
    }


def test_trials_with_whole_gpus_share_none(make_sweep: MakeSweep) -> None:
    lines = holders(make_sweep, 6, {"gpus": 1})
    assert {line["seen"] for line in lines} == {"0", "1"}
    for one, other in combinations(lines, 2):
        if one["began"] < other["ended"] and other["began"] < one["ended"]:
            assert one["seen"] != other["seen"]


def test_shares_of_gpus_are_packed_as_declared(make_sweep: MakeSweep) -> None:
    lines = holders(make_sweep, 8, {"gpus": 0.5})
    assert fullest(lines) == {"0": 1.0, "1": 1.0}
    assert len({line["pid"] for line in lines}) == 4


def test_wide_network_has_a_whole_gpu_and_narrow_one_a_share(make_sweep: MakeSweep) -> None:
    units = {"type": "categorical", "choices": [64, 1024]}
    lines = holders(make_sweep, 12, {"gpus": "1 if units > 512 else 0.25"}, units=units)
    rows = {row.number: row for row in read_study("climbing", f"sqlite:///{Path('sweeper.db').absolute()}").rows()}
    assert {row.params["units"] for row in rows.values()} == {64, 1024}
    assert all(line["gpus"] == (1 if rows[line["number"]].params["units"] > 512 else 0.25) for line in lines)
    assert max(fullest(lines).values()) <= 1


def test_custom_resources_of_nodes_are_shared_out(make_sweep: MakeSweep) -> None:
    lines = sorted(holders(make_sweep, 3, {"custom": {"scratch": 0.6}}), key=lambda line: line["began"])
    assert all(one["ended"] <= other["began"] for one, other in zip(lines, lines[1:], strict=False))


def test_trial_that_exhausts_its_gpu_share_is_retried_on_a_whole_gpu(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(
        trainable="tests.samples:exhaust_gpu",
        budget={"trials": 3, "epochs": 1},
        resources={"gpus": 0.25},
        space={"needs": {"type": "categorical", "choices": [0.1, 0.8, 2.0]}, "batch_size": 4096},
        sampler={"type": "grid"},
    )
    study = tune(sweep)
    rows = {row.params["needs"]: row for row in study.rows()}
    assert (rows[0.1].state, rows[0.1].attempt, rows[0.1].value) == ("COMPLETE", 1, 0.25)
    assert (rows[0.8].state, rows[0.8].attempt, rows[0.8].value) == ("COMPLETE", 2, 1.0)
    assert (rows[2.0].state, rows[2.0].attempt) == ("FAIL", 2)
    assert rows[2.0].reason == "GPU out of memory (batch_size=4096); attempt 2 was the last"
    assert {attempt.kind for past in study.attempts().values() for attempt in past} == {"gpu"}


def test_point_for_which_the_expression_fails_fails_alone(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(
        budget={"trials": 3, "epochs": 1},
        space={"height": {"type": "float", "low": 0.0, "high": 1.0}},
        resources={"gpus": "1.5 if height == 0.123 else 0.5"},
        enqueue=[{"height": 0.123}],
    )
    rows = tune(sweep).rows()
    assert [row.state for row in rows] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert "resources.gpus with height=0.123: 1.5 GPUs cannot be given" in str(rows[0].reason)


def test_trials_that_never_fit_the_cluster_are_refused_in_seconds(make_sweep: MakeSweep) -> None:
    space = {"units": {"type": "int", "low": 16, "high": 1024}}
    began = time.monotonic()
    for resources, message in {
        "{gpus: ceil(units / 256)}": "a trial with units=1024 needs 1 CPU and 4 GPU; the largest node has 4 CPU and 2",
        "{memory: 100000}": "each trial needs 1 CPU, 0 GPU and 1e+05 GB memory; the largest node has",
        "{accelerator_type: A100}": "1 CPU, 0 GPU and A100; the largest node has 4 CPU, 2 GPU and no A100",
    }.items():
        sweep = make_sweep(space=space).changed({"resources": resources})
        with pytest.raises(ResourceError) as caught:
            refuse_infeasible_on_cluster(sweep)
        assert message in str(caught.value)
    assert time.monotonic() - began < 5
