from __future__ import annotations

import json
import random
from pathlib import Path

import jsonschema
import pytest

from sweeper.search.space import draw
from sweeper.spec import load_sweep, sweep_schema
from sweeper.spec.yaml_file import read_yaml
from sweeper.training.hparams import RNNParams

FOLDER = Path(__file__).parents[2] / "search_spaces"
FILES = sorted(FOLDER.glob("*.yaml"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def test_the_promised_files_are_there() -> None:
    assert [path.stem for path in FILES] == ["cells", "gru", "lstm", "quick", "simple_rnn"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("baselines/*.yaml")), ids=lambda path: path.stem)
def test_a_baseline_is_one_configuration_with_three_seeds(path: Path) -> None:
    sweep = load_sweep(path)

    assert sweep.name == path.stem and sweep.warnings() == []
    varied = [name for name, domain in sweep.space.items() if len(list(domain.bounds())) > 1]
    assert varied == ["seed"] and sweep.budget.trials == 3


@each_file
def test_a_shipped_file_is_a_sweep_without_warnings(path: Path) -> None:
    sweep = load_sweep(path)

    assert sweep.name == path.stem and sweep.warnings() == []
    assert (sweep.tracking.experiment, sweep.tracking.model) == ("mnist-rnn", "mnist-rnn")
    assert sweep.budget.timeout is not None and sweep.enqueue


@each_file
def test_every_point_of_a_shipped_file_can_be_trained(path: Path) -> None:
    space = load_sweep(path).space
    rng = random.Random(1)

    for _ in range(200):
        RNNParams(**draw(space, rng))


@each_file
def test_editors_accept_a_shipped_file(path: Path) -> None:
    assert path.read_text().startswith("# yaml-language-server: $schema=sweep.schema.json\n")
    jsonschema.validate(read_yaml(path)[0], sweep_schema(), jsonschema.Draft202012Validator)


def test_editors_refuse_what_is_no_sweep() -> None:
    data, _ = read_yaml(FOLDER / "lstm.yaml")
    validator = jsonschema.Draft202012Validator(sweep_schema())

    for changes in ({"trails": 3}, {"budget": {"epochs": 1}}, {"sampler": {"type": "tpee"}}, {"space": {"x": [1]}}):
        assert not validator.is_valid({**data, **changes}), changes


def test_the_shipped_schema_is_up_to_date() -> None:
    shipped = json.loads((FOLDER / "sweep.schema.json").read_text())

    assert shipped == sweep_schema(), "run: sweeper schema > search_spaces/sweep.schema.json"
