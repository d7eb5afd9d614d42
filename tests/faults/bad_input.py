"""What a case of bad input is: a folder, a command line, and how the message begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sweeper.spec import Sweep
from sweeper.study.open import open_study

BASE = """\
name: x
trainable: tests.samples:climb
objective: {metric: score}
budget: {trials: 3, epochs: 2}
space: {height: {type: float, low: 0, high: 1}}
"""
RNN = "trainable: sweeper.training:train_rnn\ndataset: {type: digits}\n"
GRID = "sampler: {type: grid}\n"


@dataclass(frozen=True)
class Case:
    """A folder with a sweep file, a command line, and how the message begins (after `error: `)."""

    says: str
    content: str | bytes | None = BASE
    options: tuple[str, ...] = ()
    path: str = "sweep.yaml"
    prepare: Callable[[Path], None] | None = None
    verbs: tuple[str, ...] = ("validate", "run")
    environment: Mapping[str, str] = field(default_factory=dict)
    is_root: bool = True


def line(text: str, says: str) -> Case:
    """The sample with lines in the place of those that begin with the same key, or after them."""
    lines = {text.partition(":")[0]: text for text in BASE.splitlines()}
    lines |= {text.partition(":")[0]: text for text in text.splitlines()}
    return Case(f"sweep.yaml{':' if says[0].isdigit() else '  '}{says}", "\n".join(lines.values()) + "\n")


def file(content: str | bytes, says: str) -> Case:
    return Case(f"sweep.yaml{says}", content)


def space(text: str, says: str) -> Case:
    return line(f"space: {{{text}}}", says)


def height(domain: str, says: str) -> Case:
    return space(f"height: {{{domain}}}", says)


def budget(text: str, says: str) -> Case:
    return line(f"budget: {{trials: 3, epochs: 2, {text}}}", says)


def option(name: str, value: str, says: str) -> Case:
    """An option of `sweeper run`."""
    return Case(says, options=(name, value), verbs=("run",))


def path(name: str, says: str, prepare: Callable[[Path], None] | None = None) -> Case:
    return Case(says, path=name, prepare=prepare)


def source(code: str, says: str, *, module: str = "mine") -> Case:
    """A module beside the file, with what is to be a trainable."""

    def prepare(folder: Path) -> None:
        (folder / f"{module}.py").write_text(code)

    return replace(line(f"trainable: {module}:train", says), prepare=prepare)


def finished(**changes: object) -> Callable[[Path], None]:
    """A study called x of a sweep that differs."""
    declared = {
        "name": "x",
        "trainable": "tests.samples:climb",
        "objective": {"metric": "score"},
        "budget": {"trials": 3, "epochs": 2},
        "space": {"height": {"type": "float", "low": 0, "high": 1}},
    }

    def prepare(_: Path) -> None:
        with open_study(Sweep.from_mapping(declared | changes)):
            pass

    return prepare
