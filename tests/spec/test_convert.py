from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sweeper.cli.main import main
from sweeper.core.errors import SpecError
from sweeper.spec import load_sweep
from sweeper.spec.convert import convert_file, domain_of

WANDB = """\
program: train.py
name: My sweep!
project: digits
entity: ada
method: bayes
metric: {name: val/accuracy, goal: maximize}
run_cap: 12
parameters:
  learning-rate: {distribution: log_uniform_values, min: 1e-5, max: 1e-1}
  batch_size: {values: [16, 32, 64]}
  dropout: {min: 0.1, max: 0.5}
  layers: {min: 1, max: 4}
  width: {distribution: q_log_uniform_values, min: 8, max: 256, q: 8}
  decay: {distribution: log_uniform, min: -9.21, max: 0}
  optimizer: {value: adam}
  epochs: {value: 27}
early_terminate: {type: hyperband, min_iter: 3, eta: 3}
command: ["${env}", python3, "${program}", "${args}", --brace, "{x}"]
"""


def convert(text: str) -> str:
    Path("train.py").touch()
    Path("wandb.yaml").write_text(text)
    return convert_file(Path("wandb.yaml"))


def test_file_becomes_a_sweep_that_is_valid() -> None:
    Path("sweep.yaml").write_text(convert(WANDB))
    sweep = load_sweep("sweep.yaml")
    assert sweep.name == "My-sweep"
    assert str(sweep.trainable).startswith("python3 train.py '--learning-rate={learning_rate}'")
    assert (sweep.objective.metric, sweep.objective.direction) == ("val/accuracy", "maximize")
    assert (sweep.budget.trials, sweep.budget.epochs, sweep.sampler.type) == (12, 27, "tpe")
    assert sweep.pruner.model_dump(exclude_defaults=True) == {"min_reports": 3, "reduction_factor": 3}
    space = YAML(typ="safe").load(Path("sweep.yaml"))["space"]
    assert space == {
        "learning_rate": {"type": "float", "low": 1e-5, "high": 0.1, "log": True},
        "batch_size": {"type": "categorical", "choices": [16, 32, 64]},
        "dropout": {"type": "float", "low": 0.1, "high": 0.5},
        "layers": {"type": "int", "low": 1, "high": 4},
        "width": {"type": "float", "low": 8, "high": 256, "log": True},
        "decay": {"type": "float", "low": pytest.approx(1e-4, rel=1e-3), "high": 1.0, "log": True},
        "optimizer": "adam",
        "epochs": 27,
    }
    assert sweep.tracking.experiment == "digits"
    assert sweep.warnings() == []


def test_what_has_no_counterpart_is_a_comment() -> None:
    text = convert(WANDB)
    assert "# entity: ada has no counterpart." in text
    assert "# the step has no counterpart on a logarithmic scale" in text
    assert "# e**-9.21 to e**0: log_uniform has exponents as min and max" in text


def test_shortest_file_is_converted_with_guesses_that_are_named() -> None:
    text = convert("program: train.py\nmethod: grid\nparameters: {a: {values: [1, 2]}, b: {values: [x, y, z]}}\n")
    assert "budget: {trials: 6, epochs: 10}" in text and "10 is a guess" in text
    assert "# The file names no metric" in text and "pruner: {type: none}" in text
    Path("sweep.yaml").write_text(text)
    assert load_sweep("sweep.yaml").sampler.type == "grid"


@pytest.mark.parametrize(
    ("raw", "domain"),
    [
        ({"distribution": "uniform", "min": 0, "max": 1}, {"type": "float", "low": 0, "high": 1}),
        ({"distribution": "int_uniform", "min": 0, "max": 9}, {"type": "int", "low": 0, "high": 9}),
        (
            {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.3},
            {"type": "float", "low": 0, "high": 0.9, "step": 0.3},
        ),
        ({"distribution": "constant", "value": 3}, 3),
        ({"values": [5]}, 5),
        ({"distribution": "categorical", "values": ["a", "b"]}, {"type": "categorical", "choices": ["a", "b"]}),
        ({"distribution": "normal", "mu": 1, "sigma": 2}, {"type": "float", "low": -5, "high": 7}),
        ({"type": "loguniform", "lower": 1e-3, "upper": 1}, {"type": "float", "low": 1e-3, "high": 1, "log": True}),
        ({"type": "suggest_int", "low": 1, "high": 8, "log": True}, {"type": "int", "low": 1, "high": 8, "log": True}),
        ({"type": "float", "min": 0.0, "max": 1.0}, {"type": "float", "low": 0.0, "high": 1.0}),
    ],
)
def test_parameter_of_another_tool_has_a_counterpart(raw: dict[str, Any], domain: Any) -> None:
    found = domain_of(raw)[0]
    assert found == (pytest.approx(domain) if isinstance(domain, dict) and "step" in domain else domain)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: random\n", "wandb.yaml:1:1  is no W&B sweep"),
        (
            "program: train.py\nparameters: {a: {parameters: {b: {value: 1}}}}\n",
            "2:14  parameters.a: has parameters of its own",
        ),
        ("program: train.py\nparameters: {a: {distribution: beta, min: 0, max: 1}}\n", "has the distribution 'beta'"),
        ("program: train.py\nmethod: hyperopt\nparameters: {a: {value: 1}}\n", "method: 'hyperopt' is not known"),
        (
            "program: train.py\ncommand: ['${envvar:X}']\nparameters: {a: {value: 1}}\n",
            "has ${envvar:X}, which cannot be",
        ),
        ("parameters: {a: {value: 1}}\n", "program: is missing"),
    ],
)
def test_what_cannot_be_converted_is_one_clear_message(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        convert(text)
    assert message in str(caught.value)


def test_command_writes_a_new_file_and_replaces_none(capsys: pytest.CaptureFixture[str]) -> None:
    convert(WANDB)
    assert main(["convert", "wandb.yaml", "-o", "sweep.yaml"]) == 0
    assert main(["validate", "sweep.yaml"]) == 0
    assert main(["convert", "wandb.yaml", "-o", "sweep.yaml"]) == 2
    assert "sweep.yaml exists already" in capsys.readouterr().err


def test_wandb_file_that_is_run_names_the_command_and_each_counterpart(capsys: pytest.CaptureFixture[str]) -> None:
    convert(WANDB)
    assert main(["run", "wandb.yaml"]) == 2
    messages = capsys.readouterr().err
    assert "wandb.yaml  is a sweep of W&B; write it as a sweep file with: sweeper convert wandb.yaml" in messages
    for line in (
        "wandb.yaml:5:1  method: unknown key. Write sampler: {type: tpe}",
        "wandb.yaml:6:1  metric: unknown key. Write objective: {metric: val/accuracy, direction: maximize}",
        "wandb.yaml:7:1  run_cap: unknown key. Write budget: {trials: 12}",
        "early_terminate: unknown key. Write pruner: {type: successive_halving, min_epochs: 3, reduction_factor: 3}",
        "entity: has no counterpart; leave it out",
    ):
        assert line in messages, messages
    assert "is missing" not in messages


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("tune.loguniform(1e-4, 1e-1)", "write {type: float, low: 0.0001, high: 0.1, log: true}"),
        ("tune.choice([16, 32])", "write {type: categorical, choices: [16, 32]}"),
        ("trial.suggest_int('x', 1, 8)", "write {type: int, low: 1, high: 8}"),
        ("tune.sample_from(draw)", "is a call in Python; write {type: float"),
        ("{suggest_float: {low: 0.1, high: 1.0, log: true}}", "write {type: float, low: 0.1, high: 1.0, log: true}"),
        ("{distribution: log_uniform, min: 0, max: 0}", "e**0 to e**0: log_uniform has exponents as min and max"),
        ("{type: int, min: 1, max: 3}", "write {type: int, low: 1, high: 3}"),
        ("{type: float, low: 0, high: 1, max: 3}", "is written as in another tool"),
        ("{distribution: gauss, min: 1, max: 3}", "space.x.type: is missing; name the kind"),
    ],
)
def test_parameter_by_habit_of_another_tool_names_its_counterpart(declared: str, message: str) -> None:
    text = f"name: x\ntrainable: tests.samples:climb\nbudget: {{trials: 2, epochs: 2}}\nspace:\n  x: {declared}\n"
    Path("sweep.yaml").write_text(text)
    with pytest.raises(SpecError) as caught:
        load_sweep("sweep.yaml")
    assert message in str(caught.value) and str(caught.value).startswith("sweep.yaml:5:")
