"""Sweeps on several real nodes, which are added, killed and poisoned while a sweep runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from sweeper.core.errors import CapacityError
from sweeper.core.trials import Report, TrialRecord
from sweeper.driver.connection.cluster import ray_cluster
from sweeper.spec import Sweep
from sweeper.study.open import open_study, read_study
from sweeper.study.view import StudyView
from tests.runs import run_trials

MakeSweep = Callable[..., Sweep]

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("no_ray")]


class Stage(Cluster):  # type: ignore[misc]
    """A head on which no trial runs, and nodes that tests add and kill."""

    def bring(self, **options: Any) -> Any:
        return self.add_node(**{"num_cpus": 1, "object_store_memory": 80 << 20} | options)

    def kill(self, node: Any) -> None:
        self.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def head(no_ray: None) -> Iterator[Stage]:
    checks = {"health_check_period_ms": 1000, "health_check_timeout_ms": 2000, "health_check_failure_threshold": 3}
    arguments = {"num_cpus": 0, "include_dashboard": False, "_system_config": checks}
    cluster = Stage(initialize_head=True, head_node_args=arguments)
    with ray_cluster(cluster.address):
        yield cluster
    cluster.shutdown()


@pytest.fixture
def stage(head: Stage) -> Iterator[Stage]:
    yield head
    for node in list(head.worker_nodes):
        head.kill(node)
    while len([node for node in ray.nodes() if node["Alive"]]) > 1:
        time.sleep(0.1)


class Script:
    """Changes the cluster at certain updates of the study, and keeps the updates."""

    def __init__(
        self,
        *,
        on_report: Callable[[TrialRecord, int], None] = lambda row, count: None,
        on_phase: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.said: list[str] = []
        self.updates: list[tuple[float, TrialRecord]] = []
        self._on_report = on_report
        self._on_phase = on_phase

    def on_trial(self, row: TrialRecord, report: Report | None) -> None:
        self.updates.append((time.monotonic(), row))
        if report is not None:
            self._on_report(row, sum(other.step > 0 for _, other in self.updates))

    def on_phase(self, message: str) -> None:
        self.said.append(message)
        self._on_phase(message)


def tune(sweep: Sweep, script: Script) -> StudyView:
    with open_study(sweep, listeners=(script,)) as study:
        run_trials(study)
    return read_study(sweep.name, sweep.storage_url())


def kinds(study: StudyView) -> list[str]:
    return [attempt.kind for attempts in study.attempts().values() for attempt in attempts]


def test_sweep_survives_a_killed_node_and_uses_an_added_one(
    stage: Stage, make_sweep: MakeSweep, record_property: Callable[[str, object], None]
) -> None:
    nodes = [stage.bring() for _ in range(3)]
    killed: list[float] = []
    again: dict[int, float] = {}

    def disturb(row: TrialRecord, count: int) -> None:
        if count == 15:
            stage.kill(nodes[1])
            killed.append(time.monotonic())
            stage.bring()
        if row.attempt == 2:
            again.setdefault(row.number, time.monotonic())

    script = Script(on_report=disturb)
    sweep = make_sweep(trainable="tests.samples:slow_count", budget={"trials": 9, "epochs": 20, "max_failures": 0})
    study = tune(sweep, script)
    rows = study.rows()
    assert [row.state for row in rows] == ["COMPLETE"] * 9
    assert [row.value for row in rows] == [pytest.approx(row.params["height"] * 20) for row in rows]
    assert all([report.step for report in study.reports(row.number)] == list(range(1, 21)) for row in rows)
    (lost,) = [row for row in rows if row.attempt == 2]
    (attempt,) = study.attempts().get(lost.number, [])
    assert (attempt.kind, attempt.reason) == ("node", "its node was lost") and attempt.step > 0
    noticed = next(when for when, row in script.updates if row.number == lost.number and row.attempt == 2)
    record_property("seconds until it was noticed", round(noticed - killed[0], 1))
    record_property("seconds until its trial resumed", round(again[lost.number] - killed[0], 1))
    assert noticed - killed[0] < 30


def test_node_where_trials_die_gets_no_more(stage: Stage, make_sweep: MakeSweep) -> None:
    stage.bring()
    poisoned = stage.bring(env_vars={"SWEEPER_TEST_POISON": "1"})
    budget = {"trials": 12, "epochs": 60, "max_failures": 2}  # as long as three workers that start and die may take
    script = Script()
    study = tune(make_sweep(trainable="tests.samples:die_of_poison", budget=budget), script)
    assert [row.state for row in study.rows()] == ["COMPLETE"] * 12
    assert kinds(study) == ["node"] * 3
    poisoned_name = poisoned.node_ip_address
    assert [line for line in script.said if "gets no more trials:" in line] == [
        f"Node {poisoned_name} gets no more trials: 3 attempts in a row died on it before their first report."
    ]
    assert {attempt.node for past in study.attempts().values() for attempt in past} == {study.rows()[0].node}


def test_last_node_that_can_run_a_trial_is_never_excluded(stage: Stage, make_sweep: MakeSweep) -> None:
    stage.bring()
    stage.bring(num_gpus=1, env_vars={"SWEEPER_TEST_POISON": "1"})
    budget = {"trials": 3, "epochs": 2, "max_failures": 1}
    sweep = make_sweep(trainable="tests.samples:die_of_poison", budget=budget, resources={"gpus": 0.1})
    script = Script()
    study = tune(sweep, script)
    assert [row.state for row in study.rows()] == ["FAIL"] * 3
    assert kinds(study) == ["crash"] * 6
    assert not [line for line in script.said if "gets no more trials:" in line]


def test_excluded_node_is_used_again_when_the_others_are_lost(stage: Stage, make_sweep: MakeSweep) -> None:
    sound = stage.bring()
    stage.bring(env_vars={"SWEEPER_TEST_POISON": "1"})
    Path("cured").unlink(missing_ok=True)

    def cure(message: str) -> None:
        if "gets no more trials:" in message:
            Path("cured").touch()
            stage.kill(sound)

    script = Script(on_phase=cure)
    budget = {"trials": 6, "epochs": 30, "max_failures": 2}
    space = {"height": {"type": "float", "low": 0.0, "high": 1.0}, "cure": str(Path("cured").absolute())}
    study = tune(make_sweep(trainable="tests.samples:die_of_poison", budget=budget, space=space), script)
    assert [row.state for row in study.rows()] == ["COMPLETE"] * 6
    assert [line for line in script.said if "gets no more trials:" in line]


def test_trials_wait_while_no_node_can_run_them(
    stage: Stage, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.driver.nodes.QUIET_WAIT_S", 1.0)
    only = stage.bring()

    def kill(row: TrialRecord, count: int) -> None:
        if count == 5:
            stage.kill(only)

    def help_out(message: str) -> None:
        if "No node can run" in message:
            stage.bring(num_cpus=2)

    script = Script(on_report=kill, on_phase=help_out)
    study = tune(make_sweep(trainable="tests.samples:slow_count", budget={"trials": 3, "epochs": 10}), script)
    assert [row.state for row in study.rows()] == ["COMPLETE"] * 3
    assert script.said[-2:] == [
        "No node can run any waiting trial (waiting: 1). The sweep waits up to 10 minutes for a node.",
        "The sweep continues.",
    ]


def test_sweep_ends_when_no_node_can_run_its_trials_for_long(
    stage: Stage, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.driver.nodes.MAX_WAIT_FOR_NODE_S", 3.0)
    only = stage.bring()

    def kill(row: TrialRecord, count: int) -> None:
        if count == 5:
            stage.kill(only)

    sweep = make_sweep(trainable="tests.samples:slow_count", budget={"trials": 3, "epochs": 10})
    with pytest.raises(CapacityError, match="Progress is saved; run the same command again to resume.") as caught:
        tune(sweep, Script(on_report=kill))
    assert caught.value.exit_code == 75
    stage.bring()
    assert [row.state for row in tune(sweep, Script()).rows()] == ["COMPLETE"] * 3
