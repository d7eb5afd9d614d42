"""Several goals in a sweep file: which of them prunes, and what a sweep of several goals may not have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.core.errors import SpecError
from sweeper.spec import Objective, Sweep, load_sweep

SCORE, SIZE = {"metric": "score"}, {"metric": "parameters", "direction": "minimize"}
BOTH = [SCORE, SIZE]


def sweep_of(**changes: Any) -> Sweep:
    declared: dict[str, Any] = {
        "name": "x",
        "trainable": "tests.samples:weigh",
        "objective": BOTH,
        "budget": {"trials": 40, "epochs": 16},
        "space": {"height": {"type": "float", "low": 0, "high": 1}, "width": {"type": "int", "low": 1, "high": 64}},
    }
    return Sweep.from_mapping(declared | changes)


def test_goal_that_prunes_is_the_objective() -> None:
    sweep = sweep_of(prune_on="parameters")

    assert sweep.objective == Objective(metric="parameters", direction="minimize")
    assert [goal.metric for goal in sweep.goals] == ["parameters", "score"]
    assert [goal.metric for goal in sweep.declared_goals] == ["score", "parameters"]
    assert sweep.chosen_pruner.type == "median"


def test_nothing_prunes_where_no_goal_is_named() -> None:
    assert sweep_of().objective.metric == "score"
    assert sweep_of().pruner.type == sweep_of().chosen_pruner.type == "none"
    assert sweep_of(pruner={"type": "auto"}).chosen_pruner.type == "none"
    assert sweep_of(pruner={"type": "auto"}, prune_on="score").chosen_pruner.type == "none", "see docs/search.md"
    assert sweep_of(pruner={"type": "auto"}, objective=SCORE).chosen_pruner.type == "promotion"


def test_single_goal_is_what_it_was() -> None:
    sweep = sweep_of(objective=SCORE)

    assert sweep.goals == (sweep.objective,) == (Objective(metric="score"),)
    assert sweep.model_dump(mode="json")["objective"] == {"metric": "score", "direction": "maximize"}
    assert sweep.pruner.type == "median" and sweep_of(objective=SCORE, prune_on="score").goals == sweep.goals
    assert Sweep.model_fields["declared_goals"].get_default(call_default_factory=True) == (Objective(),)


@pytest.mark.parametrize("changes", [{}, {"prune_on": "score"}, {"objective": SIZE}, {"sampler": {"type": "nsga2"}}])
def test_sweep_with_goals_survives_json(changes: dict[str, Any]) -> None:
    sweep = sweep_of(**changes)

    assert Sweep.model_validate(sweep.model_dump(mode="json")) == sweep
    assert Sweep.model_validate_json(sweep.model_dump_json()) == sweep
    assert Sweep.from_mapping(sweep.model_dump(mode="json")) == sweep == sweep.changed({})


def test_goals_are_read_from_a_file_and_from_options(write: Callable[..., Path]) -> None:
    path = write("objective: [{metric: a}, {metric: b, direction: minimize}]")
    assert [goal.metric for goal in load_sweep(path, {"prune_on": "a"}).goals] == ["a", "b"]
    assert [goal.metric for goal in load_sweep(path, {"prune_on": "b"}).goals] == ["b", "a"]
    changed = load_sweep(path, {"prune_on": "b", "objective": "[{metric: c}, {metric: b}]"})
    assert [goal.metric for goal in changed.goals] == ["b", "c"]


@pytest.mark.parametrize(("changes", "message"), [
    ({"objective": [SCORE]}, "objective: a list holds 2 to 5 goals, and this one 1; for a single one, write {metric"),
    ({"objective": []}, "objective: a list holds 2 to 5 goals, and this one 0"),
    ({"objective": [SCORE, SIZE, SCORE]}, "objective[2].metric: 'score' is a goal already; name each metric once"),
    ({"objective": [SCORE, {"metrik": "a"}]}, "objective[1].metrik: unknown key. Did you mean 'metric'?"),
    ({"objective": {"metrik": "a"}}, "objective.metrik: unknown key. Did you mean 'metric'?"),
    ({"objective": [SCORE, "size"]}, "objective[1]: 'size' must be a mapping"),
    ({"prune_on": "scores"}, "prune_on: 'scores' is no metric of objective. Did you mean 'score'?"),
    ({"objective": SCORE, "prune_on": "size"}, "prune_on: 'size' is no metric of objective. One of: score."),
    ({"pruner": {"type": "median"}}, "pruner.type: a pruner judges by one goal, and objective lists 2; name it"),
    ({"pruner": {"type": "patient"}}, "pruner.type: a pruner judges by one goal"),
    ({"pruner": {"type": "hyperband"}, "prune_on": "score"}, "pruner.type: hyperband needs a single goal"),
    ({"pruner": {"type": "patient", "wrapped": {"type": "hyperband"}}, "prune_on": "score"},
     "pruner.wrapped.type: hyperband needs a single goal, and objective lists 2; choose type: promotion"),
    ({"sampler": {"type": "cmaes"}}, "sampler.type: cmaes searches for one goal; choose type: tpe, or nsga2"),
])  # fmt: skip
def test_what_cannot_be_with_several_goals_is_refused_once(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as refused:
        sweep_of(**changes)
    (line,) = str(refused.value).splitlines()
    assert message in line
