from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sweeper.core.errors import SpecError
from sweeper.spec import Sweep, load_sweep
from tests.spec.conftest import SAMPLE, refusal

BAD_LINES = {
    # an unknown, missing or misplaced key
    "trails: 3": "19:1  trails: unknown key. Did you mean",
    "objectiv: {}": "objectiv: unknown key. Did you mean 'objective'?",
    "version: 2": "version: unknown key. Known: name, description",
    "budget: {trial: 3, epochs: 1}": "5:10  budget.trial: unknown key. Did you mean 'trials'?",
    "budget: {epochs: 1}": "5:1  budget.trials: is missing",
    "budget: {trials: 3}": "5:1  budget: has no length of a trial; give epochs, or steps",
    "budget: 3": "5:1  budget: 3 must be a mapping (key: value)",
    "budget: [3]": "5:1  budget: [3] must be a mapping (key: value)",
    "budget:": "5:1  budget: is null; give a value, or leave the key out",
    "sampler: tpe": "7:1  sampler: 'tpe' must be a mapping (key: value); try {type: tpe}",
    "sampler: {seed: 1}": "7:1  sampler.type: is missing; name the kind",
    "sampler: {type: tpee}": "7:11  sampler.type: 'tpee' is not known. Did you mean 'tpe'?",
    "sampler: {type: random, n_startup_trials: 3}": "7:25  sampler.n_startup_trials: unknown key. Known: seed, type.",
    "pruner: {type: median, n_startup_trial: 3}": "8:24  pruner.n_startup_trial: unknown key. Did",
    "pruner: {type: patient, wrapped: {type: medain}}": "8:35  pruner.wrapped.type: 'medain' is not known. Did you",
    "dataset: {type: mnits}": "3:11  dataset.type: 'mnits' is not known. Did you mean 'mnist'?",
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
    f"name: {'a' * 65}": "name: has 65 characters; at most 64 are allowed",
    'description: "a\\x07"': "description: has a control character",
    'objective: {metric: ""}': "4:13  objective.metric: '' is not a name of a metric",
    "objective: {metric: 5}": 'objective.metric: 5 must be text; write "5"',
    "objective: {direction: max}": "4:13  objective.direction: 'max' is not known. Did you mean 'maximize'?",
    "tracking: {experiment: ' '}": "17:12  tracking.experiment: ' ' must be 1 to 250 characters",
    "tracking: {model: a/b}": "tracking.model: 'a/b' must be letters",
    # the budget and resources
    "budget: {trials: 0, epochs: 1}": "5:10  budget.trials: 0 must be >= 1",
    "budget: {trials: -1, epochs: 1}": "5:10  budget.trials: -1 must be >= 1",
    "budget: {trials: 1.5, epochs: 1}": "5:10  budget.trials: 1.5 must be a whole number",
    "budget: {trials: 3, epochs: 0}": "budget.epochs: 0 must be > 0",
    "budget: {trials: 3, epochs: 1, steps: 5}": "5:32  budget.steps: epochs and steps are both given",
    "budget: {trials: 3, epochs: 2.5}": "5:21  budget.epochs: 2.5 ends between two reports at 1 per epoch",
    "budget: {trials: 3, epochs: 2, report_every: 5}": "budget.report_every: needs steps",
    "budget: {trials: 3, steps: 9, reports_per_epoch: 5}": "budget.reports_per_epoch: needs epochs",
    "budget: {trials: 3, steps: 9, report_every: 10}": "budget.report_every: 10 is more than the 9 steps of a trial",
    "budget: {trials: 3, epochs: 2, parallel: 0}": "budget.parallel: 0 must be >= 1 or auto",
    "budget: {trials: 3, epochs: 2, parallel: 4}": "5:32  budget.parallel: 4 is more than the sweep's 3 trials",
    "budget: {trials: 3, epochs: 2, parallel: atuo}": "budget.parallel: 'atuo' must be a whole number or auto",
    "budget: {trials: 3, epochs: 2, timeout: 10 mins}": "budget.timeout: '10 mins' is not a duration; write 10m",
    "budget: {trials: 3, epochs: 2, timeout: -5s}": "budget.timeout: '-5s' is not a duration; write 30m",
    "budget: {trials: 3, epochs: 2, timeout: 0s}": "budget.timeout: 0.0 must be > 0",
    "budget: {trials: 3, epochs: 2, timeout: true}": "budget.timeout: true must be a number",
    "resources: {cpus: -1}": "6:13  resources.cpus: -1 must be >= 0.0001",
    "resources: {cpus: 0}": "resources.cpus: 0 must be >= 0.0001",
    "resources: {cpus: .nan}": "resources.cpus: nan must be a finite number",
    "resources: {gpus: 1.5}": "6:13  resources.gpus: 1.5 GPUs cannot be given; use a share below 1, or whole GPUs: 2",
    # the space
    "space: {}": "9:1  space: is empty; give at least one value",
    "space: {units: {type: int, low: 64, high: 32}}": "9:28  space.units.low: 64 is above high: 32; swap them",
    "space: {units: {type: int, low: 0, high: 32, log: true}}": "9:28  space.units.low: 0 must be > 0 with log",
    "space: {units: {type: int, low: 1, high: 32, step: 2}}": "9:46  space.units.step: steps of 2 from 1 do not",
    "space: {units: {type: int, low: 1, high: 32, step: 0}}": "space.units.step: 0 must be > 0",
    "space: {units: {type: int, low: 1e400, high: 32}}": "space.units.low: inf must be a whole number",
    "space: {dropout: {type: float, low: .nan, high: 1}}": "space.dropout.low: nan must be a finite number",
    "space: {units: {type: categorical, choices: []}}": "9:36  space.units.choices: is empty; give at least one value",
    "space: {units: {type: categorical, choices: [8, 8]}}": "9:49  space.units.choices[1]: 8 is repeated",
    'space: {units: {type: categorical, choices: [8, "8"]}}': "space.units.choices: mixes numbers and text",
    "space: {units: [32, 64]}": "9:9  space.units: [32, 64] must be a mapping (key: value); try {type: categorical",
    "space: {units: {low: 32, high: 64}}": "9:9  space.units.type: is missing; name the kind",
    "space: {units: {type: integer, low: 1, high: 2}}": "9:17  space.units.type: 'integer' is not known. Did you",
    "space: {units: {type: int, lo: 1, high: 2}}": "9:28  space.units.lo: unknown key. Did you mean 'low'?",
    "space: {unit: 32}": "9:9  space.unit: RNNParams has no such hyperparameter. Did you mean 'units'?",
    "space: {units: {type: int, low: 0, high: 32}}": "9:28  space.units.low: 0 must be >= 1",
    "space: {cell: lstmm}": "9:9  space.cell: 'lstmm' is not known. Did you mean 'lstm'?",
    "space: {cell: {type: categorical, choices: [lstm, grru]}}": "9:51  space.cell.choices[1]: 'grru' is not known",
    'space: {units: "64"}': "9:9  space.units: '64' must be a whole number",
    "space: {bidirectional: 1}": "9:9  space.bidirectional: 1 must be true or false",
    "space: {units: {type: int, low: 1, high: 9, when: {cell: gru}}}": "9:52  space.units.when.cell: there is no",
    "enqueue: [{unit: 64}]": "16:12  enqueue[0].unit: there is no such parameter in the space. Did you mean 'units'?",
    "enqueue: [{}, {units: 512}]": "16:16  enqueue[1].units: 512 is not in the space, which has 32 to 256",
    "enqueue: [{optimizer: adam, momentum: 0.5}]": "16:29  enqueue[0].momentum: is used only when optimi",
    # what does not go together
    "sampler: {type: grid}": "7:11  sampler.type: a grid needs a step for learning_rate, momentum; add step:",
    "pruner: {type: hyperband, min_epochs: 8}": "8:27  pruner.min_epochs: judges from report 32 on, but a trial",
    # the world
    "trainable: train_rnn": "2:1  trainable: 'train_rnn' must be package.module:function",
    "trainable: no.where:train": "2:1  trainable: there is no module 'no.where'",
    "trainable: sweeper.training:train_rn": "2:1  trainable: module 'sweeper.training' has no function 'train_rn'. Did",
    "storage: postgres://h/d": "18:1  storage: has an unknown scheme 'postgres'. Did you mean 'postgresql'?",
    "storage: sweeper.db": "storage: is no URL of a database; try sqlite:///sweeper.db or postgresql+psycopg://host/",
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
def test_problem_is_reported_with_its_position_and_rule(line: str, write: Callable[..., Path]) -> None:
    messages = refusal(write(line))

    assert any(message.startswith("lstm.yaml:") and BAD_LINES[line] in message for message in messages), messages
    assert not any("hunter2" in message for message in messages)


@pytest.mark.parametrize("key", ["name", "budget", "space", "dataset"])
def test_missing_key_is_reported(key: str, write: Callable[..., Path]) -> None:
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
def test_file_without_a_mapping_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "lstm.yaml").write_text(text)

    assert refusal(tmp_path / "lstm.yaml")[0].startswith(message)


def test_all_problems_are_reported_in_the_order_of_the_file(write: Callable[..., Path]) -> None:
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


def test_at_most_twenty_problems_are_printed(write: Callable[..., Path]) -> None:
    messages = refusal(write("space: {" + ", ".join(f"x{i}: 1" for i in range(30)) + "}"))

    assert len(messages) == 21 and messages[-1].startswith("lstm.yaml  and ") and messages[-1].endswith("more problems")


def test_choices_that_are_all_wrong_are_not_called_empty(write: Callable[..., Path]) -> None:
    messages = refusal(write("space: {layers: {type: categorical, choices: [[64, 32], [128]]}}"))

    assert len(messages) == 2 and all("must be text or true or false or" in message for message in messages)


def test_combination_that_the_trainable_refuses_is_found_at_loading(tmp_path: Path) -> None:
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


def test_problem_of_a_mapping_has_no_line() -> None:
    with pytest.raises(SpecError) as caught:
        Sweep.from_mapping(
            {"name": "x", "trainable": "tests.samples:climb", "space": {"x": 1}, "budget": {"trials": 1}}
        )

    assert str(caught.value) == "sweep  budget: has no length of a trial; give epochs, or steps"


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


def test_parameter_whose_name_holds_a_secret_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "canary_token")
    with pytest.raises(SpecError, match="space: a name here holds a secret") as caught:
        declared = {"name": "x", "trainable": "tests.samples:climb", "budget": {"trials": 1, "epochs": 1}}
        Sweep.from_mapping({**declared, "space": {"canary_token": 1}})
    assert "canary" not in str(caught.value)
    with pytest.raises(SpecError, match="space.key: holds a secret, and would be stored") as caught:
        Sweep.from_mapping({**declared, "space": {"key": "canary_token"}, "objective": {"metric": "canary_token"}})
    assert [problem.key for problem in caught.value.problems] == ["space.key", "objective.metric"]
