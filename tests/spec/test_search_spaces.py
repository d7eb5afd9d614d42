from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sweeper.search.space import draw
from sweeper.spec import load_sweep, sweep_schema
from sweeper.spec.yaml_file import read_yaml
from sweeper.training.hparams import RNNParams

FOLDER = Path(__file__).parents[2] / "search_spaces"
FILES = sorted(FOLDER.glob("*.yaml"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
BASELINES = sorted(FOLDER.glob("baselines/*.yaml"))


def test_documented_files_exist() -> None:
    assert [path.stem for path in FILES] == ["best", "cells", "gru", "lstm", "quick", "simple_rnn"]


@pytest.mark.parametrize("path", BASELINES, ids=lambda path: path.stem)
def test_baseline_is_one_configuration_with_three_seeds(path: Path) -> None:
    sweep = load_sweep(path)

    assert sweep.name == path.stem and sweep.warnings() == []
    varied = [name for name, domain in sweep.space.items() if len(list(domain.bounds())) > 1]
    assert varied == ["seed"] and sweep.budget.trials == 3


@each_file
def test_shipped_file_is_a_sweep_without_warnings(path: Path) -> None:
    sweep = load_sweep(path)

    assert sweep.name == path.stem and sweep.warnings() == []
    model = "mnist-quick" if path.stem == "quick" else "mnist-rnn"
    assert (sweep.tracking.experiment, sweep.tracking.model) == ("mnist-rnn", model)
    assert sweep.budget.timeout is not None and sweep.enqueue


@each_file
def test_every_point_of_a_shipped_file_can_be_trained(path: Path) -> None:
    space = load_sweep(path).space
    rng = random.Random(1)

    for _ in range(200):
        RNNParams(**draw(space, rng))


@pytest.mark.parametrize("path", FILES + BASELINES, ids=lambda path: path.stem)
def test_editors_accept_a_shipped_file(path: Path) -> None:
    schema = path.read_text().splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / schema).resolve() == FOLDER / "sweep.schema.json"
    jsonschema.validate(read_yaml(path)[0], sweep_schema(), jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    "changes",
    [
        {"trails": 3},
        {"budget": {"epochs": 1}},
        {"sampler": {"type": "tpee"}},
        {"space": {"x": [1]}},
        {"budget": {"trials": 0, "epochs": 1}},
        {"budget": {"trials": 10**7, "epochs": 1}},
        {"budget": {"trials": 3, "epochs": 1, "parallel": 0}},
        {"seed": 2**32},
        {"dataset": {"type": "time_series", "steps": 1}},
        {"dataset": {"type": "digits", "train": 1201}},
        {"space": {"units": {"type": "int", "low": 1, "high": 9, "step": 0}}},
        {"pruner": {"type": "hyperband", "reduction_factor": 1}},
    ],
    ids=str,
)
def test_editors_refuse_an_invalid_sweep(changes: dict[str, Any]) -> None:
    data, _ = read_yaml(FOLDER / "lstm.yaml")
    validator = jsonschema.Draft202012Validator(sweep_schema())

    assert validator.is_valid(data) and not validator.is_valid({**data, **changes})


def integers_in(part: Any) -> Iterator[dict[str, Any]]:
    """Yield the integers of a schema."""
    if isinstance(part, dict):
        if part.get("type") == "integer":
            yield part
        for inner in part.values():
            yield from integers_in(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from integers_in(inner)


def test_schema_names_the_bounds_of_every_integer_by_json_schema() -> None:
    schema = sweep_schema()
    jsonschema.Draft202012Validator.check_schema(schema)

    for integer in integers_in(schema):
        assert not {"ge", "le", "gt", "lt"} & integer.keys(), integer
        assert {"minimum", "exclusiveMinimum"} & integer.keys() and {"maximum", "exclusiveMaximum"} & integer.keys()
    assert {"minimum": 2, "maximum": 250}.items() <= schema["$defs"]["TimeSeries"]["properties"]["steps"].items()


def test_shipped_schema_is_up_to_date() -> None:
    shipped = json.loads((FOLDER / "sweep.schema.json").read_text())

    assert shipped == sweep_schema(), "run: sweeper schema > search_spaces/sweep.schema.json"
