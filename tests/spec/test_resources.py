from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sweeper.core.errors import SpecError
from sweeper.spec import Sweep, TrialResources

MakeSweep = Callable[..., Sweep]

SPACE: dict[str, Any] = {
    "units": {"type": "int", "low": 16, "high": 1024},
    "cell": {"type": "categorical", "choices": ["gru", "lstm"]},
    "optimizer": {"type": "categorical", "choices": ["sgd", "adam"]},
    "momentum": {"type": "float", "low": 0.0, "high": 0.9, "when": {"optimizer": "sgd"}},
    "min": 2,
}


@pytest.fixture
def asking(make_sweep: MakeSweep) -> Callable[..., Sweep]:
    """Sweeps that ask for these resources."""
    return lambda **resources: make_sweep(space=SPACE, resources=resources)


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("1 if units > 512 else 0.25", 1.0),
        ("ceil(units / 300)", 4.0),
        ("max(1, units // 300)", 3.0),
        ("min(units, 7)", 7.0),
        ("(units % 1000) - -1", 25.0),
        ("2 * (1 + units / 1024)", 4.0),
        ("3 if cell == 'lstm' else 1", 3.0),
        ("3 if cell != 'lstm' else units * 0.5", 512.0),
        ("min + units * 0", 2.0),
        ("1 if units >= 1024 else 2 if units <= 16 else 3", 1.0),
    ],
)
def test_expression_is_computed_for_each_trial(asking: Callable[..., Sweep], text: str, cpus: float) -> None:
    assert asking(cpus=text).resources.for_trial({"units": 1024, "cell": "lstm", "min": 2}).cpus == cpus


def test_every_number_can_be_an_expression(asking: Callable[..., Sweep]) -> None:
    custom = {"disk": "ceil(units / 512)", "bus": 1}
    sweep = asking(gpus=0.5, memory="2 + units / 256", accelerator_type="A100", custom=custom)
    expected = TrialResources(gpus=0.5, memory=6, accelerator_type="A100", custom={"disk": 2, "bus": 1})
    assert sweep.resources.for_trial({"units": 1024}) == expected
    assert Sweep.from_mapping(sweep.model_dump(mode="json")) == sweep


RULE = (
    "; expressions may use numbers, parameters, + - * / // %, comparisons, and, or, not, `A if B else C`, min, max and "
    "ceil"
)
REFUSED = {
    "unitz / 2": "there is no parameter 'unitz' in the space. Did you mean 'units'?",
    "momentum + 1": "momentum is not used in some trials; use parameters that every trial has",
    "units +": f"'units +' is neither a number nor an expression{RULE}",
    "": f"'' is neither a number nor an expression{RULE}",
    "4": "'4' must be a number, or an expression of parameters; write a number without quotes",
    "units ** units": f"'units ** units' is not allowed in an expression{RULE}",
    "units << 3": f"'units << 3' is not allowed in an expression{RULE}",
    "open('x')": "\"open('x')\" is not allowed in an expression",
    "max(units, key=cell)": "'max(units, key=cell)' is not allowed in an expression",
    "units.real": f"'units.real' is not allowed in an expression{RULE}",
    "[units]": f"'[units]' is not allowed in an expression{RULE}",
    "f'{units}'": "is not allowed in an expression",
    "1 < units < 5": f"'1 < units < 5' is not allowed in an expression{RULE}",
    "(lambda: units)()": "is not allowed in an expression",
    "units if (units := 3) else 1": "is not allowed in an expression",
    "cell * 1000000000": "cannot be computed with cell=gru: cell is 'gru', not a number",
    "1 if cell > 3 else 2": "cannot be computed with cell=gru: '>' not supported between instances of 'str' and 'int'",
    "1 / (units - 16)": "'1 / (units - 16)' cannot be computed with units=16: division by zero",
    "1 / (units - 17)": "with units=16: -1.0 must be >= 0.0001",
    "units * 100": "with units=1024: 102400 must be <= 4096",
    "units > 3": "with units=16: true must be a number",
    "cell": "with cell=gru: 'gru' must be a number",
    "ceil(units, 2)": "'ceil(units, 2)' cannot be computed with units=16: ",
    "+".join(["units"] * 100): "must be at most 200 characters long",
}


@pytest.mark.parametrize("text", REFUSED)
def test_invalid_expression_is_refused_with_its_key(asking: Callable[..., Sweep], text: str) -> None:
    with pytest.raises(SpecError) as caught:
        asking(cpus=text)
    (problem,) = caught.value.problems
    assert problem.key == "resources.cpus"
    assert REFUSED[text] in problem.message


def test_value_of_an_expression_has_the_bounds_of_its_key(asking: Callable[..., Sweep]) -> None:
    with pytest.raises(SpecError, match=r"resources.gpus: with units=1024: 10.24 GPUs cannot be .* whole GPUs: 11"):
        asking(gpus="units / 100")
    with pytest.raises(SpecError, match=r"resources.custom.disk: with units=16: -1 must be >= 0"):
        asking(custom={"disk": "units - 17"})


TOO_SMALL = {
    "cpus": (1e-9, "cpus: 1e-09 must be >= 0.0001"),
    "gpus": (1e-5, "gpus: 1e-05 is too small to be counted; use 0, or at least 0.0001"),
    "custom": ({"scratch": 9e-5}, "custom.scratch: 9e-05 is too small to be counted"),
}


@pytest.mark.parametrize("kind", TOO_SMALL)
def test_amount_that_ray_would_round_to_nothing_is_refused(asking: Callable[..., Sweep], kind: str) -> None:
    amount, message = TOO_SMALL[kind]
    with pytest.raises(SpecError) as caught:
        asking(**{kind: amount})
    assert f"resources.{message}" in str(caught.value)


def test_expression_of_too_small_an_amount_is_refused(asking: Callable[..., Sweep]) -> None:
    with pytest.raises(SpecError, match=r"resources.gpus: with units=16: 1.6e-05 is too small to be counted"):
        asking(gpus="units / 1000000")


@pytest.mark.parametrize("name", ["CPU", "GPU", "memory", "object_store_memory", "bundle", "CPU_group_0_1f"])
def test_custom_resource_with_a_name_of_ray_is_refused(asking: Callable[..., Sweep], name: str) -> None:
    for amount in (1, "units / 16"):
        with pytest.raises(SpecError, match=rf"resources.custom.{name}: Ray (counts {name} itself|gives such names)"):
            asking(custom={name: amount})
    assert asking(custom={"TPU": 1, "cpu": 1, "my_group": 1}).resources.custom == {"TPU": 1, "cpu": 1, "my_group": 1}


def test_expressions_are_checked_inside_the_space_too(asking: Callable[..., Sweep]) -> None:
    with pytest.raises(SpecError, match=r"resources.cpus: with units=\d+: 0 must be >= 0.0001"):
        asking(cpus="0 if 400 < units * 1 + 0 * units else 1 if units < 1 else 0 if units % 7 > 2 else 1")


def test_value_not_allowed_is_refused_when_its_trial_asks_for_it(asking: Callable[..., Sweep]) -> None:
    resources = asking(gpus="1.5 if units == 23 else 1").resources
    with pytest.raises(ValueError, match=r"resources.gpus with units=23: 1.5 GPUs cannot be given"):
        resources.for_trial({"units": 23})
