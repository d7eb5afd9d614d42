"""Cases of bad input: a folder, a command line, and the beginning of the expected message."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sweeper.core.trials import Report
from sweeper.spec import Sweep
from sweeper.study.open import open_study, read_study

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
    """A folder with a sweep file, a command line, and the beginning of the message.

    Attributes:
        message: the beginning of the message, after `error: `.
        content: the content of sweep.yaml; None for no such file.
        options: options of the command.
        path: the file that the command is given.
        prepare: a function that prepares the folder.
        verbs: verbs that must refuse it.
        environment: variables to set.
        is_root: False if the case needs a user without root's rights.
    """

    message: str
    content: str | bytes | None = BASE
    options: tuple[str, ...] = ()
    path: str = "sweep.yaml"
    prepare: Callable[[Path], None] | None = None
    verbs: tuple[str, ...] = ("validate", "run")
    environment: Mapping[str, str] = field(default_factory=dict)
    is_root: bool = True


def line(text: str, message: str) -> Case:
    """Return a case of the sample file, with its lines replaced by those of the same key, or with lines added."""
    lines = {text.partition(":")[0]: text for text in BASE.splitlines()}
    lines |= {text.partition(":")[0]: text for text in text.splitlines()}
    return Case(f"sweep.yaml{':' if message[0].isdigit() else '  '}{message}", "\n".join(lines.values()) + "\n")


def file(content: str | bytes, message: str) -> Case:
    return Case(f"sweep.yaml{message}", content)


def space(text: str, message: str) -> Case:
    return line(f"space: {{{text}}}", message)


def height(domain: str, message: str) -> Case:
    return space(f"height: {{{domain}}}", message)


def budget(text: str, message: str) -> Case:
    return line(f"budget: {{trials: 3, epochs: 2, {text}}}", message)


def option(name: str, value: str, message: str) -> Case:
    """Return a case of an option of `sweeper run`."""
    return Case(message, options=(name, value), verbs=("run",))


def path(name: str, message: str, prepare: Callable[[Path], None] | None = None) -> Case:
    return Case(message, path=name, prepare=prepare)


def source(code: str, message: str, *, module: str = "mine") -> Case:
    """Return a case of a module beside the file that should hold a trainable."""

    def prepare(folder: Path) -> None:
        (folder / f"{module}.py").write_text(code)

    return replace(line(f"trainable: {module}:train", message), prepare=prepare)


def finished(**changes: object) -> Callable[[Path], None]:
    """Return a function that creates a study called x of another sweep."""
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


def ended(*values: float, **changes: object) -> Callable[[Path], None]:
    """Return a function that creates a study called x whose trials have ended with these values and left no files."""

    def prepare(folder: Path) -> None:
        finished(tracking={"model": "own"}, **changes)(folder)
        with open_study(read_study("x").sweep) as study:
            for value in values:
                number = study.ask().number
                for step in (1, 2):
                    study.report(number, Report(step, 1e9 + step, {"score": value}))

    return prepare


def looking(message: str, *arguments: str, name: str = "x") -> Case:
    """Return a case of `sweeper show`, beside a study called x that has no trial yet."""
    return Case(message, options=arguments, path=name, prepare=finished(), verbs=("show",))
