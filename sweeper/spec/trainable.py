"""The trainable of a sweep: a function by its name, or a command with its words, environment and working folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from sweeper.core.code.functions import path_of
from sweeper.core.code.user_code import is_installed
from sweeper.core.errors import InputError
from sweeper.core.schema import MAX_INTEGER, Key, Number, Problem, StrictModel, raise_problems
from sweeper.core.text import format_value
from sweeper.spec.names import Trainable

MAX_SCRIPT_BYTES = 1 << 20
"""Size of the largest file that counts as code if a command names it. Larger ones are data."""

_MODEL_VARIABLE = b"SWEEPER_MODEL"

SHELLS = ("sh", "bash", "zsh", "dash", "ksh")

_PARTS = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_FLAG = re.compile(r"--?[A-Za-z][^={}]*")
_VARIABLE = re.compile(r"[A-Za-z_]\w*")

_SHELL_SYNTAX = re.compile(r"(?:^|\s)(\|\|?|&&?|;|\d?>>?\S*|<<?\S*)(?=\s|$)|\S(;)(?=\s|$)")
_SHELL_VARIABLE = re.compile(r"\$(\(|\w+)|`")
_SHELL_PLACEHOLDER = re.compile(r"\$(\{\w+\})(?!\})")
_ASSIGNMENT = re.compile(r"\s*([A-Za-z_]\w*)=(\S*)\s")
_SINGLE_QUOTED, _QUOTED = re.compile(r"'[^']*'"), re.compile(r"'[^']*'|\"(?:\\.|[^\"\\])*\"|\\.")

Word = Annotated[str, Field(min_length=1)] | bool | Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)] | Number


class Command(StrictModel):
    """Command that trains: a script in any language, see scripts.md."""

    command: Annotated[str, Field(min_length=1)] | Annotated[tuple[Word, ...], Field(strict=False)] = Field(
        description="Program and its arguments, with `{placeholders}`; a text is split into words, without a shell."
    )
    env: dict[str, Word] = Field(
        default_factory=dict, description="Environment variables; their values may hold placeholders too."
    )
    folder: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="Working folder; by default the one that the sweep is started in."
    )

    @model_validator(mode="after")
    def _can_be_split(self) -> Self:
        if not self.command:
            raise_problems([Problem(("command",), "is empty; name a program")])
        if isinstance(self.command, str) and (message := _problem_of_text(self.command)):
            raise_problems([Problem(("command",), message)])
        problems = [Problem(key, message) for key, word in self.texts() if (message := _problem_of_braces(word))]
        for name in self.env:
            if not _VARIABLE.fullmatch(name):
                problems.append(Problem(("env",), f"{format_value(name)} is not a name of an environment variable"))
            elif name.startswith("SWEEPER_"):
                problems.append(Problem(("env", name), "is set by sweeper; choose another name"))
        raise_problems(problems)
        return self

    def __str__(self) -> str:
        return self.command if isinstance(self.command, str) else shlex.join(self.words)

    @property
    def words(self) -> list[str]:
        """Program and arguments, with their placeholders."""
        return shlex.split(self.command) if isinstance(self.command, str) else [as_text(word) for word in self.command]

    def texts(self) -> list[tuple[Key, str]]:
        """Return every text that may hold placeholders, with its key in the model."""
        is_list = not isinstance(self.command, str)
        words = [(("command", i) if is_list else ("command",), word) for i, word in enumerate(self.words)]
        return [*words, *((("env", name), as_text(value)) for name, value in self.env.items())]

    def placeholders(self) -> dict[str, Key]:
        """Return the names of all placeholders, with the key of the first text that has it."""
        found: dict[str, Key] = {}
        for key, text in self.texts():
            for name in names_in(text):
                found.setdefault(name, key)
        return found

    def arguments(self, values: Mapping[str, str | None]) -> list[str]:
        """Return the words with their placeholders replaced.

        An argument with a placeholder that has no value is left out, and so is the bare flag before it:
        `--momentum {momentum}` where the trial has no momentum.
        """
        filled: list[str] = []
        is_flag = False
        for word in self.words:
            text = fill(word, values)
            if text is not None:
                filled.append(text)
            elif is_flag:
                filled.pop()
            is_flag = text is not None and bool(_FLAG.fullmatch(word))
        return filled

    def environment(self, values: Mapping[str, str | None]) -> dict[str, str]:
        """Return the environment variables with their placeholders replaced; those without a value are left out."""
        filled = {name: fill(as_text(value), values) for name, value in self.env.items()}
        return {name: text for name, text in filled.items() if text is not None}

    @property
    def root(self) -> Path:
        """Working folder of the command."""
        return Path(self.folder or ".").resolve()

    def scripts(self) -> list[Path]:
        """Return the files of code that the command names: existing files of at most `MAX_SCRIPT_BYTES`."""
        found = [self.root / path for word in self.words if (path := path_in(word))]
        module = module_of(self.words)
        found += [] if module is None else module_files(self.root, module)
        files = [Path(os.path.normpath(file)) for file in found]
        return list(dict.fromkeys(file for file in files if _is_code(file, self.root)))

    def leaves_model(self) -> bool:
        """Return whether the command or one of its scripts names the folder for a model."""
        return "model" in self.placeholders() or any(_MODEL_VARIABLE in file.read_bytes() for file in self.scripts())


def as_text(value: Any) -> str:
    """Return a value as an argument: text as it is, anything else as YAML writes it."""
    if isinstance(value, str):
        return value
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def names_in(text: str) -> list[str]:
    """Return the names of the placeholders of a text."""
    return [part[1] for part in _PARTS.finditer(text) if part[1] is not None]


def fill(text: str, values: Mapping[str, str | None]) -> str | None:
    """Return a text with its placeholders replaced, and `{{` by `{`; None if one of them has no value."""
    if any(values.get(name) is None for name in names_in(text)):
        return None
    return _PARTS.sub(lambda part: part[0][0] if part[1] is None else str(values[part[1]]), text)


def path_in(word: str) -> str | None:
    """Return the part of a word that may be the path of a file, as in `--config=a.yaml`; None if it has none."""
    path = word.partition("=")[2] if word.startswith("-") else word
    looks_like_path = "/" in path or Path(path).suffix
    return path if looks_like_path and not names_in(path) else None


def module_of(words: list[str]) -> str | None:
    """Return the module that `python -m` runs, None if the command is another one."""
    if not re.fullmatch(r"(.*/)?python[\d.]*|\{python\}", words[0]):
        return None
    return next((words[i + 1] for i, word in enumerate(words[:-1]) if word == "-m"), None)


def module_files(root: Path, module: str) -> list[Path]:
    """Return the file that `python -m` runs, if the module is in the working folder."""
    base = root.joinpath(*module.split("."))
    return [file for file in (base / "__main__.py", base.with_name(f"{base.name}.py")) if file.is_file()][:1]


def _is_code(file: Path, root: Path) -> bool:
    try:
        return file.is_file() and file.stat().st_size <= MAX_SCRIPT_BYTES and not is_installed(file)
    except (OSError, ValueError):  # a name that is too long, or holds a NUL character
        return False


def _problem_of_braces(text: str) -> str | None:
    if (found := _SHELL_PLACEHOLDER.search(text)) is not None:
        return f"has {found[0]}; a placeholder is {found[1]}, and for a shell write ${{{found[1]}}}"
    for part in _PARTS.finditer(text):
        if part[0] in ("{", "}"):
            return f"has a single {part[0]} in {format_value(text)}; write {part[0] * 2} for a plain brace"
        if part[1] == "":
            return f"has an empty placeholder in {format_value(text)}; write the name of a parameter, or {{{{}}}}"
    return None


def _problem_of_text(text: str) -> str | None:
    """Return why a text is no list of words, or needs the shell, which does not read it."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        return f"cannot be split into words ({str(error).lower()}); close the quote, or write a list of words"
    if not words:
        return "is empty; name a program"
    if Path(words[0]).name in SHELLS:
        return None
    way_out = 'write [sh, -c, "..."] for a shell'
    if assigned := _ASSIGNMENT.match(text):
        pair = f"{{{assigned[1]}: {assigned[2]}}}"
        return f"begins with {assigned[0].strip()}, which only a shell reads; write env: {pair} beside it"
    if (found := _SHELL_VARIABLE.search(_SINGLE_QUOTED.sub("", text))) is not None:
        return f"has {found[0]}, which only a shell reads; {way_out}"
    if (found := _SHELL_SYNTAX.search(_QUOTED.sub("x", text))) is not None:
        return f"has {found[1] or found[2]}, which only a shell reads; {way_out}"
    return None


def values_of(params: Mapping[str, Any], **built_in: str | None) -> dict[str, str | None]:
    """Return the value of each placeholder. A parameter comes before another placeholder of its name.

    Args:
        params: the trial's parameters; null is no value, as if the trial did not have the parameter.
    """
    own = {name: None if value is None else as_text(value) for name, value in params.items()}
    return {**built_in, "params": json.dumps(dict(params)), "python": sys.executable, **own}


def search_path() -> str:
    """Return the folders where programs are looked for: that of the Python that runs sweeper, then those in PATH.

    If another environment is active, PATH comes first: `python` is the one that the user sees.
    """
    own, path = str(Path(sys.executable).parent), os.environ.get("PATH") or os.defpath
    active = os.environ.get("VIRTUAL_ENV") or os.environ.get("CONDA_PREFIX") or sys.prefix
    is_other = Path(active).resolve() != Path(sys.prefix).resolve()
    return os.pathsep.join([path, own] if is_other else [own, path])


def _kind(declared: Any) -> str:
    return "function" if isinstance(declared, str) or callable(declared) else "process"


def _path_of(declared: Any) -> Any:
    """Return the path of a function that was given itself, as from a notebook."""
    if isinstance(declared, str) or not callable(declared):
        return declared
    try:
        return path_of(declared)
    except InputError as error:
        raise ValueError(str(error)) from error


def _refuse_list(declared: Any) -> Any:
    if isinstance(declared, list | tuple):
        raise ValueError(f"is a list; write {{command: {format_value(list(declared))}}}")
    return declared


AnyTrainable = Annotated[
    Annotated[Trainable, BeforeValidator(_path_of), Tag("function")]
    | Annotated[Command, BeforeValidator(_refuse_list), Tag("process")],
    Discriminator(_kind),
]
