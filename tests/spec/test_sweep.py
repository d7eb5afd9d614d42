from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sweeper.errors import InputError, SpecError
from sweeper.spec import Objective, Sweep, load_sweep, sweep_schema
from sweeper.spec.budget import Budget
from sweeper.spec.space import Constant, Float

ROOT = Path(__file__).parents[2]
SAMPLE = """\
name: lstm
trainable: sweeper.training:train_rnn
dataset:   {type: mnist, fallback: digits}
objective: {metric: val_accuracy, direction: maximize}
budget:    {trials: 24, epochs: 8, reports_per_epoch: 4, parallel: auto, timeout: 30m, max_failures: 3}
resources: {cpus: 1, gpus: 0}
sampler:   {type: tpe, seed: 0}
pruner:    {type: successive_halving, min_epochs: 0.25, reduction_factor: 4}
space:
  cell: lstm
  units:         {type: int, low: 32, high: 256, log: true}
  learning_rate: {type: float, low: 1e-4, high: 1e-1, log: true}
  batch_size:    {type: categorical, choices: [64, 128, 256]}
  optimizer:     {type: categorical, choices: [sgd, rmsprop, adam]}
  momentum:      {type: float, low: 0.0, high: 0.99, when: {optimizer: sgd}}
enqueue: [{units: 128, learning_rate: 0.001, batch_size: 128, optimizer: adam}]
tracking:  {experiment: mnist-rnn, model: mnist-rnn}
storage:   sqlite:///sweeper.db
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """The sample file with one line (named by its first word) in other words, or with lines more."""

    def write(line: str = "", *, drop: str = "") -> Path:
        lines = SAMPLE.splitlines()
        word = line.partition(":")[0] + ":"
        if "space" in (drop, line[:5]):
            lines = [old for old in lines if not old.startswith("  ")]
        places = [i for i, old in enumerate(lines) if line and old.startswith(word)]
        lines = [line if i in places else old for i, old in enumerate(lines) if not (drop and old.startswith(drop))]
        if line and not places:
            lines.append(line)
        path = tmp_path / "lstm.yaml"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def refusal(path: Path, overrides: dict[str, Any] | None = None) -> list[str]:
    started = time.process_time()
    with pytest.raises(SpecError) as caught:
        load_sweep(path, overrides)
    assert time.process_time() - started < 1
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()


def test_the_sample_of_the_readme_is_read_as_it_is_written(write: Callable[..., Path]) -> None:
    sweep = load_sweep(write())

    assert sweep.budget == Budget(
        trials=24, epochs=8, reports_per_epoch=4, parallel="auto", timeout=1800, max_failures=3
    )
    assert sweep.budget.reports == 32 and sweep.trial_limit == 24
    assert sweep.space["cell"] == Constant(value="lstm")
    assert sweep.space["momentum"] == Float(low=0, high=0.99, when={"optimizer": ("sgd",)})
    assert sweep.enqueue == ({"units": 128, "learning_rate": 0.001, "batch_size": 128, "optimizer": "adam"},)
    assert sweep.warnings() == []


def test_the_shortest_sweep_has_defaults_for_the_rest() -> None:
    sweep = Sweep.from_mapping(
        {"name": "x", "trainable": "tests.samples:climb", "budget": {"trials": 3, "epochs": 2}, "space": {"height": 1}}
    )

    assert (sweep.sampler.type, sweep.pruner.type, sweep.storage) == ("tpe", "median", "sqlite:///sweeper.db")
    assert (sweep.dataset, sweep.sampler_seed, sweep.tracking.experiment) == (None, 0, "sweeper")


def test_a_sweep_survives_json(write: Callable[..., Path]) -> None:
    sweep = load_sweep(write())

    assert Sweep.model_validate(sweep.model_dump(mode="json")) == sweep
    assert Sweep.model_validate_json(sweep.model_dump_json()) == sweep
    assert Sweep.from_mapping(sweep.model_dump(mode="json")) == sweep


def test_a_sweep_never_changes(write: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_sweep(write()).name = "other"  # type: ignore[misc]


BAD_LINES = {
    # an unknown, missing or misplaced key
    "trails: 3": "19:1  trails: unknown key. Did you mean",
    "objectiv: {}": "objectiv: unknown key. Did you mean 'objective'?",
    "version: 2": "version: unknown key. Known: name, description",
    "budget: {trial: 3, epochs: 1}": "5:10  budget.trial: unknown key. Did you mean 'trials'?",
    "budget: {epochs: 1}": "5:1  budget.trials: is missing",
    "budget: {trials: 3}": "5:1  budget: says no length of a trial; give epochs, or steps",
    "budget: 3": "5:1  budget: 3 must be a mapping (key: value)",
    "budget: [3]": "5:1  budget: [3] must be a mapping (key: value)",
    "budget:": "5:1  budget: is null; give a value, or leave the key out",
    "sampler: tpe": "7:1  sampler: 'tpe' must be a mapping (key: value); try {type: tpe}",
    "sampler: {seed: 1}": "7:1  sampler.type: needs a type, to say what it is",
    "sampler: {type: tpee}": "7:11  sampler.type: 'tpee' is unknown here. Did you mean 'tpe'?",
    "sampler: {type: random, n_startup_trials: 3}": "7:25  sampler.n_startup_trials: unknown key. Known: seed, type.",
    "pruner: {type: median, n_startup_trial: 3}": "8:24  pruner.n_startup_trial: unknown key. Did",
    "pruner: {type: patient, wrapped: {type: medain}}": "8:35  pruner.wrapped.type: 'medain' is unknown here. Did you",
    "dataset: {type: mnits}": "3:11  dataset.type: 'mnits' is unknown here. Did you mean 'mnist'?",
    '"\\e[31m": 1': r"'\x1b[31m': unknown key",
    # a value of the wrong kind
    "seed: true": "19:1  seed: true must be a whole number",
    'seed: "1"': "19:1  seed: '1' must be a whole number; write it without quotes: 1",
    "seed: 1.5": "seed: 1.5 must be a whole number",
    "seed: -1": "seed: -1 must be >= 0",
    "seed: 4294967296": "seed: 4294967296 must be < 4294967296",
    "name: 2024": '1:1  name: 2024 must be text; write "2024"',
    "budget: {trials: 3, epochs: 1_000}": "5:21  budget.epochs: '1_000' must be a number; write it without quo",
    "budget: {trials: 3, epochs: .inf}": "budget.epochs: inf must be a finite number",
    "enqueue: {units: 64}": "16:1  enqueue: {'units': 64} must be a list",
    "enqueue: [{units: [64]}]": "16:12  enqueue[0].units: [64] must be text or true or false or a whole number",
    # names and text
    'name: ""': "1:1  name: is empty; give it a name",
    "name: ../x": "1:1  name: '../x' must be letters a-z, digits, '.', '_' and '-', and begin with a letter",
    "name: /etc": "begin with a letter or digit; try etc",
    "name: a/b": "; try a-b",
    "name: .": "name: '.' must be letters",
    "name: ..": "name: '..' must be letters",
    "name: con": "name: 'con' is reserved on some systems",
    "name: NUL.txt": "is reserved on some systems",
    "name: 学習": "name: '学習' must be letters a-z",
    'name: "a\\u202eb"': r"name: 'a\u202eb' must be letters",
    f"name: {'a' * 65}": "name: has 65 characters; 64 at most",
    'description: "a\\x07"': "description: has a control character",
    'objective: {metric: ""}': "4:13  objective.metric: '' is no name of a metric",
    "objective: {metric: 5}": 'objective.metric: 5 must be text; write "5"',
    "objective: {direction: max}": "4:13  objective.direction: 'max' is unknown here. Did you mean 'maximize'?",
    "tracking: {experiment: ' '}": "17:12  tracking.experiment: ' ' must be 1 to 250 characters",
    "tracking: {model: a/b}": "tracking.model: 'a/b' must be letters",
    # the budget and resources
    "budget: {trials: 0, epochs: 1}": "5:10  budget.trials: 0 must be >= 1",
    "budget: {trials: -1, epochs: 1}": "5:10  budget.trials: -1 must be >= 1",
    "budget: {trials: 1.5, epochs: 1}": "5:10  budget.trials: 1.5 must be a whole number",
    "budget: {trials: 3, epochs: 0}": "budget.epochs: 0 must be > 0",
    "budget: {trials: 3, epochs: 1, steps: 5}": "5:32  budget.steps: and epochs are two lengths; leave one",
    "budget: {trials: 3, epochs: 2.5}": "5:21  budget.epochs: 2.5 ends between two reports at 1 per epoch",
    "budget: {trials: 3, epochs: 2, report_every: 5}": "budget.report_every: goes with steps",
    "budget: {trials: 3, steps: 9, reports_per_epoch: 5}": "budget.reports_per_epoch: goes with epochs",
    "budget: {trials: 3, steps: 9, report_every: 10}": "budget.report_every: 10 is more than all 9 steps",
    "budget: {trials: 3, epochs: 2, parallel: 0}": "budget.parallel: 0 must be >= 1 or auto",
    "budget: {trials: 3, epochs: 2, parallel: 4}": "5:32  budget.parallel: 4 is more than the 3 trials there are",
    "budget: {trials: 3, epochs: 2, parallel: atuo}": "budget.parallel: 'atuo' must be a whole number or auto",
    "budget: {trials: 3, epochs: 2, timeout: 10 mins}": "budget.timeout: '10 mins' is no duration; write 10m",
    "budget: {trials: 3, epochs: 2, timeout: -5s}": "budget.timeout: '-5s' is no duration; write 30m",
    "budget: {trials: 3, epochs: 2, timeout: 0s}": "budget.timeout: 0.0 must be > 0",
    "budget: {trials: 3, epochs: 2, timeout: true}": "budget.timeout: true must be a number",
    "resources: {cpus: -1}": "6:13  resources.cpus: -1 must be > 0",
    "resources: {cpus: 0}": "resources.cpus: 0 must be > 0",
    "resources: {cpus: .nan}": "resources.cpus: nan must be a finite number",
    "resources: {gpus: 1.5}": "6:13  resources.gpus: 1.5 GPUs cannot be given; use a share below 1, or whole ones: 2",
    # the space
    "space: {}": "9:1  space: is empty; give at least one value",
    "space: {units: {type: int, low: 64, high: 32}}": "9:28  space.units.low: 64 is above high: 32; swap them",
    "space: {units: {type: int, low: 0, high: 32, log: true}}": "9:28  space.units.low: 0 is not allowed with log",
    "space: {units: {type: int, low: 1, high: 32, step: 2}}": "9:46  space.units.step: 2 does not lead from 1 to 32",
    "space: {units: {type: int, low: 1, high: 32, step: 0}}": "space.units.step: 0 must be > 0",
    "space: {units: {type: int, low: 1e400, high: 32}}": "space.units.low: inf must be a whole number",
    "space: {dropout: {type: float, low: .nan, high: 1}}": "space.dropout.low: nan must be a finite number",
    "space: {units: {type: categorical, choices: []}}": "9:36  space.units.choices: is empty; give at least one value",
    "space: {units: {type: categorical, choices: [8, 8]}}": "9:49  space.units.choices[1]: 8 is there already",
    'space: {units: {type: categorical, choices: [8, "8"]}}': "space.units.choices: mixes numbers and text",
    "space: {units: [32, 64]}": "9:9  space.units: [32, 64] must be a mapping (key: value); try {type: categorical",
    "space: {units: {low: 32, high: 64}}": "9:9  space.units.type: needs a type, to say what it is",
    "space: {units: {type: integer, low: 1, high: 2}}": "9:17  space.units.type: 'integer' is unknown here. Did you",
    "space: {units: {type: int, lo: 1, high: 2}}": "9:28  space.units.lo: unknown key. Did you mean 'low'?",
    "space: {unit: 32}": "9:9  space.unit: RNNParams has no such hyperparameter. Did you mean 'units'?",
    "space: {units: {type: int, low: 0, high: 32}}": "9:28  space.units.low: 0 must be >= 1",
    "space: {cell: lstmm}": "9:9  space.cell: 'lstmm' is unknown here. Did you mean 'lstm'?",
    "space: {cell: {type: categorical, choices: [lstm, grru]}}": "9:51  space.cell.choices[1]: 'grru' is unknown here",
    'space: {units: "64"}': "9:9  space.units: '64' must be a whole number",
    "space: {bidirectional: 1}": "9:9  space.bidirectional: 1 must be true or false",
    "space: {units: {type: int, low: 1, high: 9, when: {cell: gru}}}": "9:52  space.units.when.cell: there is no",
    "enqueue: [{unit: 64}]": "16:12  enqueue[0].unit: there is no such parameter in the space. Did you mean 'units'?",
    "enqueue: [{}, {units: 512}]": "16:16  enqueue[1].units: 512 is not in the space, which has 32 to 256",
    "enqueue: [{optimizer: adam, momentum: 0.5}]": "16:29  enqueue[0].momentum: plays a part only when optimi",
    # what does not go together
    "sampler: {type: grid}": "7:11  sampler.type: a grid needs a step for learning_rate, momentum; add step:",
    "pruner: {type: hyperband, min_epochs: 8}": "8:27  pruner.min_epochs: would judge from report 32 on, but a trial",
    # the world
    "trainable: train_rnn": "2:1  trainable: 'train_rnn' must be package.module:function",
    "trainable: no.where:train": "2:1  trainable: there is no module 'no.where'",
    "trainable: sweeper.training:train_rn": "2:1  trainable: module 'sweeper.training' has no function 'train_rn'. Did",
    "storage: postgres://h/d": "18:1  storage: has an unknown scheme 'postgres'. Did you mean 'postgresql'?",
    "storage: sweeper.db": "18:1  storage: has an unknown scheme ''",
    "storage: sqlite://": "storage: names no file, so that nothing would be kept; try sqlite:///sweeper.db",
    "storage: 'sqlite:///:memory:'": "storage: names no file",
    "storage: sqlite://x.db": "storage: needs three slashes",
    "storage: postgresql://h:99999/d": "storage: is no URL; is the port a number from 1 to 65535?",
    "storage: postgresql://u:hunter2@h/d": "storage: has a password in clear; put it in an environment variable",
    "storage: postgresql://u:hunter2/d": "storage: is no URL",
    "storage: postgresql://h/d?password=hunter2": "storage: has a password in clear",
    "storage: postgresql://u:${PASSWORD}@h/d": "storage: has a reference that cannot be read; write ${env:NAME}",
    "tracking: {uri: ftp://x}": "17:12  tracking.uri: has an unknown scheme 'ftp'",
    "tracking: {uri: 'https://u:hunter2@x'}": "tracking.uri: has a password in clear",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_each_fault_is_told_with_its_place_and_rule(line: str, write: Callable[..., Path]) -> None:
    messages = refusal(write(line))

    assert any(message.startswith("lstm.yaml:") and BAD_LINES[line] in message for message in messages), messages
    assert not any("hunter2" in message for message in messages)


@pytest.mark.parametrize("key", ["name", "budget", "space", "dataset"])
def test_a_missing_key_is_told(key: str, write: Callable[..., Path]) -> None:
    assert any(line.startswith(f"lstm.yaml  {key}: is missing") for line in refusal(write(drop=key)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "lstm.yaml:1:1  holds a list; a sweep is a mapping with name, budget and space"),
        ("hello\n", "lstm.yaml:1:1  holds 'hello'; a sweep is a mapping"),
        ("---\n", "lstm.yaml:1:1  is empty; a sweep is a mapping"),
        ("a: [1\n", "lstm.yaml:2:1  is not YAML: a bracket is not closed"),
    ],
)
def test_a_file_that_holds_no_mapping_is_told(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "lstm.yaml").write_text(text)

    assert refusal(tmp_path / "lstm.yaml")[0].startswith(message)


def test_all_faults_are_told_at_once_in_the_order_of_the_file(write: Callable[..., Path]) -> None:
    path = write()
    text = path.read_text()
    for good, bad in (
        ("trials: 24", "trials: 0"),
        ("maximize", "max"),
        ("cpus: 1", "cpus: -1"),
        ("cell: lstm", "cell: lsmt"),
        ("low: 32", "low: 0"),
        ("choices: [64", "choices: [0"),
        ("type: tpe", "type: tpee"),
        ("when: {optimizer", "when: {optimiser"),
    ):
        text = text.replace(good, bad)
    path.write_text(text)

    messages = refusal(path)

    keys = [re.sub(r".*?  ([^ ]*): .*", r"\1", message) for message in messages]
    assert keys == [
        "objective.direction",
        "budget.trials",
        "resources.cpus",
        "sampler.type",
        "space.cell",
        "space.units.low",
        "space.batch_size.choices[0]",
        "space.momentum.when.optimiser",
    ]


def test_at_most_twenty_faults_are_printed(write: Callable[..., Path]) -> None:
    messages = refusal(write("space: {" + ", ".join(f"x{i}: 1" for i in range(30)) + "}"))

    assert len(messages) == 21 and messages[-1].startswith("lstm.yaml  and ") and messages[-1].endswith("more problems")


def test_a_combination_that_the_trainable_refuses_is_found_before_it_runs(tmp_path: Path) -> None:
    (tmp_path / "picky.py").write_text(
        "from pydantic import BaseModel, model_validator\n"
        "class Params(BaseModel):\n"
        "    a: int\n"
        "    b: int = 0\n"
        "    @model_validator(mode='after')\n"
        "    def check(self):\n"
        "        if self.b > self.a:\n"
        "            raise ValueError('b must not exceed a')\n"
        "        return self\n"
        "def train(params: Params, trial): ...\n"
    )
    declared = {"name": "x", "trainable": "picky:train", "budget": {"trials": 3, "epochs": 1}}

    with pytest.raises(SpecError, match=r"space: b must not exceed a \(as in the point a: \d, b: \d\)"):
        Sweep.from_mapping(declared | {"space": {n: {"type": "int", "low": 0, "high": 9} for n in "ab"}})
    with pytest.raises(SpecError, match=r"space.a: \d\.\d+ must be a whole number"):
        Sweep.from_mapping(declared | {"space": {"a": {"type": "float", "low": 0, "high": 9}}})
    with pytest.raises(SpecError, match="space: a is missing; Params needs a value for it"):
        Sweep.from_mapping(declared | {"space": {"b": 0}})


def test_a_fault_in_python_is_told_without_a_line() -> None:
    with pytest.raises(SpecError) as caught:
        Sweep.from_mapping(
            {"name": "x", "trainable": "tests.samples:climb", "space": {"x": 1}, "budget": {"trials": 1}}
        )

    assert str(caught.value) == "sweep  budget: says no length of a trial; give epochs, or steps"


@pytest.mark.parametrize(
    ("overrides", "read"),
    [
        ({"budget.trials": "5"}, lambda sweep: sweep.budget.trials == 5),
        ({"budget.trials": 5}, lambda sweep: sweep.budget.trials == 5),
        ({"space.units": "128"}, lambda sweep: sweep.space["units"] == Constant(value=128)),
        ({"space.units.high": "512"}, lambda sweep: sweep.space["units"].high == 512),
        ({"space.batch_size.choices": "[64, 128]"}, lambda sweep: sweep.space["batch_size"].choices == (64, 128)),
        ({"space.layers": "{type: int, low: 1, high: 2}"}, lambda sweep: sweep.space["layers"].count() == 2),
        ({"budget.timeout": "null"}, lambda sweep: sweep.budget.timeout is None),
        ({"enqueue": None}, lambda sweep: sweep.enqueue == ()),
        ({"tracking.uri": "http://host:5000"}, lambda sweep: sweep.tracking.uri == "http://host:5000"),
        ({"description": ""}, lambda sweep: sweep.description == ""),
        ({"nothing.at.all": "null"}, lambda sweep: True),
        (
            {
                "budget.steps": "1000",
                "budget.epochs": "null",
                "budget.reports_per_epoch": "null",
                "pruner.min_epochs": None,
            },
            lambda sweep: (sweep.budget.steps, sweep.budget.epochs) == (1000, None),
        ),
    ],
)
def test_values_beside_the_file_win(
    overrides: dict[str, Any], read: Callable[[Any], bool], write: Callable[..., Path]
) -> None:
    assert read(load_sweep(write(), overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"budget.trials": "0"}, "lstm.yaml  --set budget.trials: 0 must be >= 1"),
        ({"budget.trails": "5"}, "lstm.yaml  --set budget.trails: unknown key. Did you mean 'trials'?"),
        (
            {"space.cell.low": "5"},
            "lstm.yaml  --set space.cell.low: space.cell is 'lstm', which has no keys; set space.cell",
        ),
        ({"enqueue.units": "5"}, "--set enqueue.units: enqueue is [{"),
        ({"space.units": "[1"}, "lstm.yaml  --set space.units: is not YAML: a bracket is not closed"),
        ({"space.units": "{type: int, low: 0, high: 9}"}, "lstm.yaml  --set space.units.low: 0 must be >= 1"),
        ({"budget.": "5"}, "--set budget.: is no key; write it like budget.trials"),
        ({"name": "null"}, "lstm.yaml  --set name: is missing"),
    ],
)
def test_a_fault_beside_the_file_is_told_there(
    overrides: dict[str, Any], message: str, write: Callable[..., Path]
) -> None:
    messages = refusal(write(), overrides)

    assert any(message in line for line in messages), messages


@pytest.mark.parametrize(
    ("budget", "reports", "epochs"),
    [
        (Budget(trials=1, epochs=8, reports_per_epoch=4), 32, [0.25, 8]),
        (Budget(trials=1, epochs=0.5, reports_per_epoch=4), 2, [0.25, 0.5]),
        (Budget(trials=1, epochs=1), 1, [1, 1]),
        (Budget(trials=1, epochs=0.3, reports_per_epoch=10), 3, [0.1, 0.3]),
        (Budget(trials=1, steps=1000), 20, [50, 1000]),
        (Budget(trials=1, steps=1000, report_every=300), 4, [300, 1000]),
        (Budget(trials=1, steps=7), 7, [1, 7]),
    ],
)
def test_a_budget_counts_reports_and_what_they_end(budget: Budget, reports: int, epochs: list[float]) -> None:
    assert budget.reports == reports
    assert [budget.epoch_of(1), budget.epoch_of(reports)] == epochs
    assert budget.reports_in(epochs[0]) == 1 and budget.reports_in(epochs[1]) == reports
    assert budget.reports_in(1e-9) == 1


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("1h30m", 5400), ("90s", 90), ("1.5h", 5400), ("2d", 172800), (45, 45)]
)
def test_durations_are_written_with_units(text: object, seconds: float) -> None:
    assert Budget.model_validate({"trials": 1, "epochs": 1, "timeout": text}).timeout == seconds


def test_better_depends_on_the_direction() -> None:
    assert Objective(direction="maximize").is_better(2, 1) and Objective(direction="minimize").is_better(1, 2)
    assert Objective().is_better(1, None) and not Objective().is_better(None, 1) and not Objective().is_better(1, 1)


def test_secrets_stay_in_the_environment(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = load_sweep(
        write("storage: postgresql+psycopg://me:${env:DB_PASSWORD}@host/db"), {"tracking.uri": "${env:TRACKING}"}
    )
    monkeypatch.setenv("DB_PASSWORD", "p@ss/word")
    monkeypatch.setenv("TRACKING", "https://u:p@host")

    assert sweep.storage_url() == "postgresql+psycopg://me:p%40ss%2Fword@host/db"
    assert sweep.tracking.resolved_uri() == "https://u:p@host"
    assert "p@ss" not in sweep.model_dump_json() + repr(sweep)
    monkeypatch.delenv("DB_PASSWORD")
    with pytest.raises(InputError, match="DB_PASSWORD is not set"):
        sweep.storage_url()


@pytest.mark.parametrize(
    ("line", "warning"),
    [
        ("budget: {trials: 24, epochs: 1}", "nothing can be pruned; raise budget.reports_per_epoch"),
        ("pruner: {type: hyperband}", "needs 40 or more"),
        ("space: {units: {type: int, low: 64, high: 64}}", "space.units has one value only; write units: 64"),
        ("enqueue: [" + "{}," * 30 + "]", "only 24 of the 30 points in enqueue"),
    ],
)
def test_what_looks_like_a_slip_is_a_warning(line: str, warning: str, write: Callable[..., Path]) -> None:
    sweep = load_sweep(write(line), None if line.startswith("enqueue") else {"enqueue": None})

    assert any(warning in text for text in sweep.warnings()), sweep.warnings()


def test_a_grid_with_fewer_points_than_trials_ends_early(write: Callable[..., Path]) -> None:
    space = "space: {cell: {type: categorical, choices: [lstm, gru]}, units: 32}"
    sweep = load_sweep(write(space), {"enqueue": None, "sampler": "{type: grid}"})

    assert sweep.trial_limit == 2
    assert "the grid has 2 points: the sweep ends after them, not 24" in sweep.warnings()


def test_every_key_of_the_schema_is_described() -> None:
    schema = sweep_schema()
    models = [schema, *schema["$defs"].values()]

    for model in models:
        for name, declared in model["properties"].items():
            target = schema["$defs"].get(str(declared.get("$ref", "")).removeprefix("#/$defs/"), {})
            assert declared.get("description") or target.get("description"), (model["title"], name)


def test_loading_needs_nothing_heavy(write: Callable[..., Path]) -> None:
    heavy = {"optuna", "ray", "mlflow", "tensorflow", "keras", "numpy", "sklearn", "sqlalchemy", "scipy", "pandas"}
    code = (
        "import sys, time; started = time.process_time(); from sweeper.spec import load_sweep\n"
        f"imported = time.process_time() - started; load_sweep({str(write())!r})\n"
        f"print(sorted({heavy!r} & set(sys.modules)), imported < 0.35 or imported)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert done.stdout.split(maxsplit=1) == ["[]", "True\n"]


PIECES = [
    "[",
    "]",
    "{",
    "}",
    ":",
    ": ",
    "- ",
    "\n",
    "\t",
    "'",
    '"',
    "&a ",
    "*a",
    "!!int ",
    "null",
    "true",
    "-1",
    "1e400",
]
PIECES += [
    "0",
    "low",
    "type: ",
    "int",
    "when: {",
    "\x00",
    "\ufeff",
    "é",
    "---\n",
    "%",
    "#",
    ",",
    "<<: ",
    "12:30",
    "${env:",
]


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(edits=st.lists(st.tuples(st.integers(0, len(SAMPLE)), st.integers(0, 12), st.sampled_from(PIECES)), max_size=5))
@example(edits=[(0, len(SAMPLE), "[")])
def test_any_text_is_a_sweep_or_refused(edits: list[tuple[int, int, str]], tmp_path: Path) -> None:
    text = SAMPLE
    for place, length, piece in edits:
        text = text[:place] + piece + text[place + length :]
    path = tmp_path / "fuzz.yaml"
    path.write_text(text)
    try:
        assert isinstance(load_sweep(path), Sweep)
    except SpecError as error:
        assert error.problems and str(error)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = ["name", "budget", "budget.trials", "budget.epochs", "space", "space.units", "space.units.low", "space.cell"]
KEYS += ["space.momentum.when", "enqueue", "sampler", "sampler.type", "pruner", "pruner.min_epochs", "tracking.uri"]
KEYS += ["storage", "trainable", "dataset", "objective", "resources.gpus", "space.batch_size.choices", "description"]


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(overrides=st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=3))
def test_any_value_is_a_sweep_or_refused(overrides: dict[str, Any], write: Callable[..., Path]) -> None:
    try:
        sweep = load_sweep(write(), overrides)
    except SpecError as error:
        assert error.problems and str(error)
    else:
        assert Sweep.model_validate(sweep.model_dump(mode="json")) == sweep
