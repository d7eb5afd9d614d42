from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.core.errors import SpecError
from sweeper.spec import Command, Sweep, load_sweep
from sweeper.spec.trainable import fill, search_path, values_of

BASE = """\
name: scripted
objective: {metric: score}
budget: {trials: 3, epochs: 2}
space: {height: {type: float, low: 0, high: 1}}
"""


@pytest.fixture
def declare(tmp_path: Path) -> Callable[[str], Sweep]:
    """Return a function that loads a sweep with such a trainable; a script `train.py` is there."""
    (tmp_path / "train.py").write_text("print('score=1')\n")

    def load(trainable: str) -> Sweep:
        (tmp_path / "sweep.yaml").write_text(f"{BASE}trainable: {trainable}\n")
        return load_sweep("sweep.yaml")

    return load


def command(*words: str, **others: Any) -> Command:
    return Command(command=words, **others)


def test_text_is_split_as_a_shell_splits_it() -> None:
    text = Command(command="python 'my train.py' --lr={lr} --name \"a b\"")
    assert text.words == ["python", "my train.py", "--lr={lr}", "--name", "a b"]
    assert text.arguments({"lr": "0.1"}) == ["python", "my train.py", "--lr=0.1", "--name", "a b"]


def test_values_are_written_as_yaml_writes_them() -> None:
    values = values_of({"a": 0.001, "b": 1e-05, "c": 64, "d": True, "e": "x y", "f": 1.0})
    assert [fill(f"{{{name}}}", values) for name in "abcdef"] == ["0.001", "1e-05", "64", "true", "x y", "1.0"]
    assert values["python"] == sys.executable


def test_parameter_comes_before_another_placeholder_of_its_name() -> None:
    assert values_of({"model": "resnet"}, model="/a/folder", trial="3") | {"params": "", "python": ""} == {
        "model": "resnet",
        "trial": "3",
        "params": "",
        "python": "",
    }


@pytest.mark.parametrize(
    ("words", "filled"),
    [
        (("run", "--momentum", "{momentum}", "--lr", "{lr}"), ["run", "--lr", "0.1"]),
        (("run", "--momentum={momentum}", "--lr={lr}"), ["run", "--lr=0.1"]),
        (("run", "-m", "{momentum}"), ["run"]),
        (("run", "-v", "file", "{momentum}"), ["run", "-v", "file"]),
        (("run", "--lr={lr}", "{momentum}"), ["run", "--lr=0.1"]),
        (("run", "{{literal}}", "{lr}{{"), ["run", "{literal}", "0.1{"]),
    ],
)
def test_argument_without_a_value_is_left_out_with_its_flag(words: tuple[str, ...], filled: list[str]) -> None:
    assert command(*words).arguments(values_of({"lr": 0.1, "momentum": None})) == filled


def test_environment_variable_without_a_value_is_left_out() -> None:
    found = command("run", env={"LR": "{lr}", "MOMENTUM": "{momentum}", "DEVICE": 0})
    assert found.environment({"lr": "0.1"}) == {"LR": "0.1", "DEVICE": "0"}


# ruff: noqa: E501
MISTAKES = {
    "train.py": "trainable: 'train.py' is no function; to run a script, write {command: 'python train.py'}",
    "python train.py --lr {lr}": "trainable: 'python train.py --lr {lr}' is no function; to run a script, write {command:",
    "[python, train.py]": "trainable: is a list; write {command: ['python', 'train.py']}",
    "{comand: python train.py}": "trainable.comand: unknown key. Did you mean 'command'?",
    "{command: ''}": "trainable.command: is empty",
    "{command: []}": "trainable.command: is empty",
    "{command: 'python train.py --h {hight}'}": "trainable.command: there is no parameter 'hight' in this space. Did you mean 'height'?",
    "{command: [python, train.py, '{hight}']}": "trainable.command[2]: there is no parameter 'hight'",
    "{command: python train.py, env: {H: '{hight}'}}": "trainable.env.H: there is no parameter 'hight'",
    "{command: python train.py, env: {SWEEPER_SEED: 1}}": "trainable.env.SWEEPER_SEED: is set by sweeper",
    "{command: 'python train.py {steps}'}": "trainable.command: there is no parameter 'steps' in this space",
    "{command: 'python train.py {height'}": "trainable.command: has a single {",
    "{command: 'python train.py {}'}": "trainable.command: has an empty placeholder",
    "{command: 'python train.py ${height}'}": "trainable.command: has ${height}; a placeholder is {height}",
    "{command: 'python trian.py'}": "trainable.command: there is no file 'trian.py' in",
    "{command: 'torchrun trian.py', env: {}}": "trainable.command: there is no program 'torchrun' in PATH",
    "{command: 'pyhton train.py'}": "trainable.command: there is no program 'pyhton' in PATH",
    "{command: 'train.py --lr {height}'}": "trainable.command: 'train.py' is a script and no program; write 'python train.py'",
    "{command: './train.py --lr {height}'}": "is not executable; write 'python ./train.py', or chmod +x it",
    "{command: 'python train.py', folder: none}": "trainable.folder: there is no folder",
    "{command: 'python train.py > log'}": "trainable.command: has >, which only a shell reads",
    "{command: 'python train.py 2>&1'}": "trainable.command: has 2>&1, which only a shell reads",
    "{command: 'python train.py && rm x'}": "trainable.command: has &&, which only a shell reads",
    "{command: 'python train.py --home $HOME'}": "trainable.command: has $HOME, which only a shell reads",
    "{command: 'LR=1 python train.py'}": "trainable.command: begins with LR=1, which only a shell reads; write env: {LR: 1}",
    '{command: "python train.py \'"}': "trainable.command: cannot be split into words (no closing quotation)",
}


@pytest.mark.parametrize("trainable", MISTAKES)
def test_mistake_in_a_command_is_reported_with_its_position(trainable: str, declare: Callable[[str], Sweep]) -> None:
    quoted = f'"{trainable}"' if trainable.startswith("python") else trainable
    with pytest.raises(SpecError) as caught:
        declare(quoted)
    assert MISTAKES[trainable] in str(caught.value)
    assert "sweep.yaml:5:" in str(caught.value)


@pytest.mark.parametrize(
    "trainable",
    [
        '{command: "python train.py --h {height} --epochs {epochs} --seed {seed} --trial {trial} --all {params}"}',
        '{command: [sh, -c, "python train.py --h {height} > $HOME/log && echo ${{HOME}}"]}',
        "{command: \"sh -c 'python train.py {height} | tee log'\"}",
        "{command: \"python -u -W ignore train.py {height} --query 'a > b'\"}",
        '{command: "{python} -m train {height}", env: {A: 1, B: "{height}"}, folder: .}',
        "{command: \"python -c 'print(1)' {height}\"}",
        '{command: "true {height} --write new.py"}',
    ],
)
def test_valid_command_is_accepted_and_survives_json(trainable: str, declare: Callable[[str], Sweep]) -> None:
    sweep = declare(trainable)
    assert Sweep.from_mapping(sweep.model_dump(mode="json")) == sweep
    assert sweep.warnings() == []


def test_parameter_that_the_script_does_not_get_is_a_warning(declare: Callable[[str], Sweep], tmp_path: Path) -> None:
    sweep = declare("{command: python train.py}")
    (warning,) = sweep.warnings()
    assert warning.startswith("space.height is in no placeholder of the command")
    (tmp_path / "train.py").write_text("os.environ['SWEEPER_PARAMS']")
    assert sweep.warnings() == []


def test_scripts_are_the_files_of_code_that_a_command_names(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    for name in ("src/train.py", "config.yaml", "tool.sh", "train"):
        (tmp_path / name).touch()
    (tmp_path / "data.csv").write_bytes(b"1" * (2 << 20))
    words = ("python", "src/../src/train.py", "--config=config.yaml", "data.csv", "tool.sh", "train", "{height}")
    assert [file.name for file in command(*words).scripts()] == ["train.py", "config.yaml", "tool.sh"]
    assert [file.name for file in command("python", "-m", "src.train").scripts()] == ["train.py"]


def test_python_script_without_functions_is_proposed_as_a_command(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import numpy as np\nfrom sklearn.datasets import load_digits\n")
    (tmp_path / "sweep.yaml").write_text(f"{BASE}trainable: train:main\n")
    with pytest.raises(
        SpecError, match=r"It has no functions; to run it as a script, write \{command: python train.py\}"
    ):
        load_sweep("sweep.yaml")
    assert os.getcwd() == str(tmp_path)


def test_python_is_that_of_sweeper_unless_another_environment_is_active(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    own = str(Path(sys.executable).parent)
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    assert search_path() == f"{own}:/usr/bin"
    monkeypatch.setenv("VIRTUAL_ENV", "/another")
    assert search_path() == f"/usr/bin:{own}"
