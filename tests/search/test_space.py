from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import optuna
import pytest
from pydantic import TypeAdapter, ValidationError

from sweeper.core.schema import dotted_key
from sweeper.search.optuna_internals import trial_id
from sweeper.search.space import (
    GRID_LIMIT,
    Domain,
    Space,
    check_point,
    check_space,
    draw,
    grid,
    grid_size,
    normalized,
    suggest,
    suspicious_settings,
)

optuna.logging.set_verbosity(optuna.logging.WARNING)


def space_of(**declared: Any) -> Space:
    return TypeAdapter(dict[str, Domain]).validate_python(declared)


def choice(*choices: Any, **more: Any) -> dict[str, Any]:
    return {"type": "categorical", "choices": list(choices), **more}


CHAIN = {
    "momentum": {"type": "float", "low": 0.0, "high": 0.9, "when": {"optimizer": ["sgd", "rmsprop"]}},
    "optimizer": choice("sgd", "rmsprop", "adam"),
    "nesterov": choice(True, False, when={"optimizer": "sgd"}),
    "dampening": {"type": "constant", "value": 0.5, "when": {"nesterov": False}},
    "cell": "lstm",
}


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))


def points(study: optuna.Study, space: Space, count: int) -> Iterator[dict[str, Any]]:
    return (suggest(study.ask(), space) for _ in range(count))


def test_parameter_is_used_only_when_its_condition_holds(study: optuna.Study) -> None:
    for point in points(study, space_of(**CHAIN), 60):
        assert ("momentum" in point) == (point["optimizer"] != "adam")
        assert ("nesterov" in point) == (point["optimizer"] == "sgd")
        assert ("dampening" in point) == (point.get("nesterov") is False)
        assert point["cell"] == "lstm"


def test_point_keeps_the_order_of_the_space(study: optuna.Study) -> None:
    for point in points(study, space_of(**CHAIN), 30):
        assert list(point) == [name for name in CHAIN if name in point]


def test_second_call_for_a_trial_gives_the_same_point(study: optuna.Study) -> None:
    space = space_of(**CHAIN)
    trial = study.ask()
    point = suggest(trial, space)

    assert suggest(optuna.Trial(study, trial_id(trial)), space) == point
    assert suggest(study.trials[0], space) == point


def test_optuna_does_not_choose_constants(study: optuna.Study) -> None:
    space = space_of(**CHAIN)
    trial = study.ask()
    suggest(trial, space)

    assert "cell" not in trial.params


@pytest.mark.parametrize(
    ("declared", "values"),
    [
        ({"type": "int", "low": 1, "high": 9, "step": 4}, [1, 5, 9]),
        ({"type": "int", "low": 3.0, "high": 4}, [3, 4]),
        ({"type": "float", "low": 0, "high": 0.3, "step": 0.1}, [0.0, 0.1, 0.2, 0.3]),
        ({"type": "float", "low": 0.5, "high": 0.5}, [0.5]),
        (choice(None, 1.0, 2.5), [None, 1.0, 2.5]),
        ("lstm", ["lstm"]),
        (None, [None]),
    ],
)
def test_domains_count_list_and_contain_their_values(declared: Any, values: list[Any]) -> None:
    domain = space_of(x=declared)["x"]
    listed = list(domain.values())

    assert listed == values and [type(value) for value in listed] == [type(value) for value in values]
    assert domain.count() == len(values)
    assert all(domain.contains(value) for value in values)
    assert domain.draw(random.Random(0)) in values
    assert not domain.contains("other") and not domain.contains(17)


def test_continuous_range_has_no_count_and_contains_its_draws() -> None:
    for declared in ({"low": 0, "high": 1}, {"low": 1e-5, "high": 1e-1, "log": True}):
        domain = space_of(x={"type": "float", **declared})["x"]
        rng = random.Random(0)

        assert domain.count() is None
        assert all(domain.contains(domain.draw(rng)) for _ in range(200))


@pytest.mark.parametrize("index", range(8))
def test_step_that_optuna_computes_is_the_decimal_that_was_written(index: int) -> None:
    domain = space_of(x={"type": "float", "low": 0.0, "high": 0.7, "step": 0.1})["x"]
    assert domain.contains(index * 0.1)
    assert domain.normal(index * 0.1) == float(f"0.{index}")


@pytest.mark.parametrize("value", [0.35, 0.75, -0.1, 0.3001, float("nan"), float("inf"), "0.3", True, None])
def test_value_between_two_steps_is_not_in_the_domain(value: Any) -> None:
    assert not space_of(x={"type": "float", "low": 0.0, "high": 0.7, "step": 0.1})["x"].contains(value)


def test_true_is_not_one() -> None:
    space = space_of(x=choice(True, False), y=choice(0, 1))

    assert not space["x"].contains(1) and not space["y"].contains(True)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"type": "float", "low": 2, "high": 1}, "low: 2.0 is above high: 1.0; swap them"),
        ({"type": "float", "low": 0, "high": 1, "log": True}, "low: 0.0 must be > 0 with log: true; try 1e-5"),
        ({"type": "int", "low": 0, "high": 9, "log": True}, "low: 0 must be > 0 with log: true; try 1"),
        ({"type": "int", "low": 0, "high": 9, "step": 2}, "step: steps of 2 from 0 do not reach 9; use high: 8"),
        ({"type": "float", "low": 0, "high": 1, "step": 0.3}, "use high: 0.9"),
        ({"type": "int", "low": 1, "high": 9, "step": 2, "log": True}, "step: 2 is not allowed with log: true"),
        ({"type": "int", "low": 1, "high": 9, "step": 0}, "greater than 0"),
        ({"type": "float", "low": 1, "high": 9, "step": -1}, "greater than 0"),
        ({"type": "float", "low": float("nan"), "high": 1}, "finite number"),
        ({"type": "float", "low": 0, "high": float("inf")}, "finite number"),
        ({"type": "int", "low": 0, "high": 2**60}, "less than or equal"),
        ({"type": "int", "low": True, "high": 2}, "valid integer"),
        ({"type": "int", "low": 1.5, "high": 2}, "valid integer"),
        ({"type": "float", "low": "1", "high": 2}, "valid number"),
        (choice(), "at least 1 item"),
        (choice("a", "b", "a"), "choices[2]: 'a' is repeated; give each value once"),
        (choice(1, 1.0), "choices[1]: 1.0 is repeated"),
        (choice(1, "1"), "choices: mixes numbers and text"),
        (choice(1, True), "mixes numbers and true/false"),
        (choice([1]), "valid string"),
    ],
)
def test_impossible_domains_are_refused(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        space_of(x=declared)

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("declared", "key", "message"),
    [
        ({"a b": 1}, "a b", "is not a name of a parameter"),
        ({"[red]": 1}, "[red]", "is not a name of a parameter"),
        ({"u\u202eyz": 1}, "'u\\u202eyz'", "is not a name of a parameter"),
        ({"x" * 65: 1}, "x" * 65, "longer than 64"),
        ({"cell": "a", "x": {"type": "constant", "value": 1, "when": {"cel": "a"}}}, "x.when.cel", "mean 'cell'?"),
        (
            {
                "p": {"type": "float", "low": 0, "high": 0.7, "step": 0.1},
                "x": choice(1, when={"p": [0.1 + 0.2]}),
            },
            "x.when.p",
            "p is never exactly 0.30000000000000004; write 0.3",
        ),
        ({"p": choice("a", "b"), "x": choice(1, when={"p": ["a", "c"]})}, "x.when.p", "p is never 'c', only 'a', 'b'"),
        ({"p": {"type": "int", "low": 1, "high": 5}, "x": choice(1, when={"p": 7})}, "x.when.p", "only 1 to 5"),
        ({"x": choice(1, when={"x": 1})}, "x.when", "circle: x <- x"),
        ({"x": choice(1, when={"y": 1}), "y": choice(1, when={"x": 1})}, "x.when", "circle: x <- y <- x"),
    ],
)
def test_impossible_names_and_conditions_are_refused(declared: dict[str, Any], key: str, message: str) -> None:
    problems = list(check_space(space_of(**declared)))

    assert len(problems) == 1
    assert (dotted_key(problems[0].key), message in problems[0].message) == (key, True), problems


def test_names_can_use_any_script_and_conditions_can_chain() -> None:
    links = {f"p{i}": choice(0, 1, when={f"p{i - 1}": 1} if i else {}) for i in range(999, -1, -1)}
    space = space_of(学習率=1, **links)

    assert list(check_space(space)) == []
    assert grid_size(space) == 1001
    assert "p0" in draw(space, random.Random(0))


def test_grid_has_each_active_combination_once() -> None:
    declared = CHAIN | {"momentum": choice(0.0, 0.9, when={"optimizer": ["sgd", "rmsprop"]})}
    points = grid(space_of(**declared))

    # sgd: 2 momenta x (nesterov, or not and dampening); rmsprop: 2 momenta; adam: 1
    assert len(points) == grid_size(space_of(**declared)) == 7
    assert all(points.count(point) == 1 for point in points)
    assert {"optimizer": "adam", "cell": "lstm"} in points


def test_huge_grid_is_counted_and_never_made() -> None:
    space = space_of(**{f"p{i}": {"type": "int", "low": 1, "high": 1000} for i in range(4)})

    assert grid_size(space) == 10**12
    with pytest.raises(ValueError, match=f"more than {GRID_LIMIT:,} points"):
        grid(space)


def test_huge_grid_with_conditions_is_never_made() -> None:
    wide = {"type": "int", "low": 1, "high": 10**9, "when": {"a": "x"}}

    assert grid_size(space_of(a=choice("x", "y"), b=wide, c=wide)) is None


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"optimizer": "adam"}, None),
        ({"optimizer": "sgd", "momentum": 0.5, "nesterov": True, "cell": "lstm"}, None),
        ({}, None),
        ({"optimiser": "adam"}, "no such parameter in the space. Did you mean 'optimizer'?"),
        ({"optimizer": "adm"}, "'adm' is not in the space, which has 'sgd', 'rmsprop', 'adam'"),
        ({"optimizer": "sgd", "momentum": 1.5}, "1.5 is not in the space, which has 0.0 to 0.9"),
        ({"optimizer": "sgd", "momentum": True}, "True is not in the space".lower()),
        ({"cell": "gru"}, "'gru' is not in the space, which has 'lstm'"),
        ({"optimizer": "adam", "momentum": 0.5}, "is used only when optimizer is 'sgd' or 'rmsprop'"),
        ({"momentum": 0.5}, "add optimizer, or leave this out"),
    ],
)
def test_start_points_must_be_in_the_space(point: dict[str, Any], message: str | None) -> None:
    problems = list(check_point(point, space_of(**CHAIN)))

    assert [message in problem.message for problem in problems] == [True] if message else problems == []


def test_start_point_takes_the_types_of_its_domains() -> None:
    space = space_of(a={"type": "float", "low": 0, "high": 2}, b={"type": "int", "low": 0, "high": 9}, c="x")
    point = normalized({"a": 1, "b": 3.0, "c": "x"}, space)

    assert point == {"a": 1.0, "b": 3} and [type(value) for value in point.values()] == [float, int]


def test_domain_of_one_value_is_a_probable_mistake() -> None:
    space = space_of(a=choice("x"), b={"type": "int", "low": 2, "high": 2}, c="x", d=choice(1, 2))

    assert suspicious_settings(space) == [
        "space.a has one value only; write a: 'x'",
        "space.b has one value only; write b: 2",
    ]


def test_ten_thousand_choices_are_read_quickly() -> None:
    assert space_of(x=choice(*range(10_000)))["x"].count() == 10_000


def test_space_imports_nothing_heavy() -> None:
    code = "import sys, sweeper.search.space; print({'optuna', 'numpy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"
