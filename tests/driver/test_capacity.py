from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from sweeper.core.trials import Report
from sweeper.driver.capacity import SpareCpus, describe_shortage
from sweeper.driver.nodes import Room
from sweeper.spec import Sweep
from sweeper.worker.task import Task

MakeSweep = Callable[..., Sweep]


@pytest.fixture
def spare(make_sweep: MakeSweep) -> SpareCpus:
    return SpareCpus(make_sweep(budget={"trials": 9, "epochs": 10}))


def report(step: int, time: float) -> Report:
    return Report(step, time, {"score": 0.5})


def test_shortage_names_what_a_trial_needs_and_what_the_largest_node_has() -> None:
    demands = [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 1.0, "memory": 8e9}]
    nodes = [{"CPU": 1.0, "memory": 4e9}, {"CPU": 2.0, "memory": 2e9}]
    assert describe_shortage(demands, nodes) == (
        "No node can run a trial: each needs 4 CPU, 1 GPU and 8 GB memory; the largest node has 2 CPU, 0 GPU and 4 GB "
        "memory. The sweep waits for a node."
    )
    assert "1 GPU; there is no node. The sweep waits" in describe_shortage(demands[:1], [])


def test_trials_of_a_node_share_its_spare_cpus_evenly(spare: SpareCpus) -> None:
    cpus_of = {3: 1.0, 5: 1.0, 8: 2.0}
    for number in cpus_of:
        assert spare.change((number, 1), report(1, 0.0), cpus_of, 4.0) is None  # how long it takes is not known yet
    changed = {number: spare.change((number, 1), report(2, 5.0), cpus_of, 4.0) for number in cpus_of}
    assert changed == {3: 3, 5: 2, 8: 3} and sum(changed.values()) == 4 + sum(cpus_of.values())


def test_trial_gives_them_back_as_soon_as_another_waits(spare: SpareCpus) -> None:
    spare.change((0, 1), report(1, 0.0), {0: 1.0}, 3.0)
    assert spare.change((0, 1), report(2, 5.0), {0: 1.0}, 3.0) == 4
    assert spare.change((0, 1), report(3, 10.0), {0: 1.0}, 3.0) is None
    assert spare.change((0, 1), report(4, 15.0), {0: 1.0}, 0.0) == 1


def test_trial_that_is_nearly_done_gets_none_but_keeps_what_it_has(spare: SpareCpus) -> None:
    spare.change((0, 1), report(7, 0.0), {0: 1.0}, 1.0)
    assert spare.change((0, 1), report(8, 4.0), {0: 1.0}, 1.0) is None  # 8 s left
    spare.change((1, 1), report(6, 0.0), {1: 1.0}, 1.0)
    assert spare.change((1, 1), report(7, 4.0), {1: 1.0}, 1.0) == 2  # 12 s left
    assert spare.change((1, 1), report(8, 6.0), {1: 1.0}, 1.0) is None  # 4 s left


def test_new_attempt_begins_with_the_cpus_that_its_trial_declares(spare: SpareCpus) -> None:
    for attempt in (1, 2):
        spare.change((0, attempt), report(1, 0.0), {0: 0.5}, 1.5)
        assert spare.change((0, attempt), report(2, 5.0), {0: 0.5}, 1.5) == 2


def test_cpus_that_are_free_for_a_moment_are_not_given(spare: SpareCpus) -> None:
    free = [0.0, 3.0, 0.0, 3.0, 3.0, 3.0]
    changes = [spare.change((0, 1), report(step, 20.0 * step), {0: 1.0}, n) for step, n in enumerate(free, 1)]
    assert changes == [None, None, None, None, 4, None]


def test_sweep_of_two_trials_at_a_time_uses_no_more_than_two_declare(make_sweep: MakeSweep) -> None:
    spare = SpareCpus(make_sweep(budget={"trials": 9, "epochs": 10, "parallel": 2}))
    for step in (1, 2):
        changes = [spare.change((number, 1), report(step, 20.0 * step), {number: 2.0}, 14.0) for number in (0, 1)]
        changes.append(spare.change((2, 1), report(step, 20.0 * step), {2: 2.0}, 14.0, running=2))
    assert changes == [4, 4, None]


def test_room_is_looked_at_anew_only_after_a_change() -> None:
    asked: list[int] = []
    snapshots: list[dict[str, Any]] = [{}]

    class Counted:
        def alive(self) -> dict[str, Any]:
            return snapshots[-1]

        def has_room(self, handed_out: list[Any], parallel: int | None) -> bool:
            asked.append(len(handed_out))
            return len(handed_out) < 2

    room = Room(cast(Any, Counted()), lambda task: {"CPU": 1.0}, None)
    tasks = {(number, 1): Task(number, {}) for number in range(2)}
    first = {(0, 1): tasks[0, 1]}
    assert [room(first), room(first), room(tasks), room(tasks)] == [True, True, False, False] and asked == [1, 2]
    snapshots.append({})  # the nodes were queried again
    assert not room(tasks) and room({(0, 2): tasks[0, 1]}) and asked == [1, 2, 2, 1]
