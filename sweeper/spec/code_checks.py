"""Checks of a trainable's code: modules that a file would hide, programs, scripts and placeholders of a command."""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from sweeper.core.code.source import code_digests
from sweeper.core.code.user_code import HERE, user_code_root
from sweeper.core.errors import InputError
from sweeper.core.schema import Problem
from sweeper.core.text import did_you_mean, format_value
from sweeper.spec.trainable import SHELLS, Command, names_in, search_path

# What no package that sweeper needs imports.
_UNUSED_NAMES = frozenset("antigravity chunk crypt imp mailbox pipes profile sched this trace turtle wave".split())

_NEEDED_PACKAGES = frozenset(
    "absl alembic fsspec google grpc h5py jax keras mlflow ml_dtypes msgpack numpy optuna packaging pandas psutil "
    "pyarrow pydantic pydantic_core ray requests rich ruamel scipy sklearn sqlalchemy tensorflow typer urllib3 "
    "yaml".split()
)


def refuse_hidden_modules(trainable: str) -> None:
    """Refuse a file of the user that Python would import in the place of a module that is needed.

    Raises:
        InputError: There is one for a module of Python, of a package that sweeper needs, or that the trainable imports.
    """
    root, here = user_code_root(trainable), str(HERE.absolute())
    folders = {root} if root is not None else {Path(here)} if here in sys.path else set()
    for folder in folders - {Path(__file__).resolve().parents[2]}:
        imported = code_digests(folder, trainable.partition(":")[0]).keys()
        for name in sorted(os.listdir(folder)):
            file = folder / name if name.endswith(".py") else folder / name / "__init__.py"
            hidden = name.removesuffix(".py")
            if hidden.isidentifier() and file.is_file() and _is_needed(hidden, is_imported=name in imported):
                kind = "standard" if hidden in sys.stdlib_module_names else "installed"
                raise InputError(
                    f"{file.relative_to(folder)} in {folder} hides the {kind} module {hidden!r} from everything that "
                    "imports it; rename it"
                )


def _is_needed(name: str, *, is_imported: bool) -> bool:
    if name in sys.stdlib_module_names:
        return name not in _UNUSED_NAMES
    paths = sysconfig.get_paths()
    if name == "sweeper" or not PathFinder.find_spec(name, [paths["purelib"], paths["platlib"]]):
        return name == "sweeper"
    try:
        return name in _NEEDED_PACKAGES or (is_imported and bool(distribution(name)))
    except PackageNotFoundError:  # another package brought it along, and the user's own is meant
        return False


BUILT_IN = ("seed", "trial", "reports", "params", "checkpoint", "model", "python")
"""Placeholders of a command that are no parameters, besides `epochs` or `steps`, whichever the budget has."""

_INTERPRETER = re.compile(rf"python[\d.]*|Rscript|julia|perl|ruby|node|{'|'.join(SHELLS)}")
_SCRIPT_SUFFIXES = (".py", ".sh", ".R", ".r", ".jl", ".pl", ".rb", ".js")
_OPTIONS_WITH_VALUE = ("-X", "-W")
_OPTIONS_INSTEAD_OF_SCRIPT = ("-c", "-m", "-e", "--eval")


def check_command(command: Command, space: Iterable[str], budget: Any) -> list[Problem]:
    """Return the problems of a command: placeholders without a value, and files that do not exist.

    Args:
        space: the names of its parameters.
        budget: the declared budget, which may not be valid.
    """
    length = [unit for unit in ("epochs", "steps") if isinstance(budget, Mapping) and budget.get(unit) is not None]
    known = [*space, *BUILT_IN, *length]
    problems = [
        Problem(key, f"there is no parameter {format_value(name)} in this space. {did_you_mean(name, known)}")
        for name, key in command.placeholders().items()
        if name not in known
    ]
    if not command.root.is_dir():
        return [*problems, Problem(("folder",), f"there is no folder {command.root}")]
    keys = [key for key, _ in command.texts()]
    if message := _problem_of_program(command.words[0], command.root):
        return [*problems, Problem(keys[0], message)]
    missing = [i for i in _script_words(command.words) if not (command.root / command.words[i]).exists()]
    return problems + [Problem(keys[i], _missing(command.root / command.words[i])) for i in missing]


def _problem_of_program(word: str, folder: Path) -> str | None:
    """Return why the first word of a command cannot be run, None if it can or has a placeholder."""
    if names_in(word):
        return None
    file = folder / word
    if "/" not in word:
        if shutil.which(word, path=search_path()) is not None:
            return None
        if file.is_file():
            return f"{format_value(word)} is a script and no program; write 'python {word}', or './{word}'"
        return f"there is no program {format_value(word)} in PATH"
    if not file.is_file():
        return _missing(file)
    return None if os.access(file, os.X_OK) else f"{file} is not executable; write 'python {word}', or chmod +x it"


def _script_words(words: list[str]) -> Iterator[int]:
    """Yield the positions of the words that must be scripts: what an interpreter runs, or what is named like one."""
    is_value = False
    awaited = _INTERPRETER.fullmatch(Path(words[0]).name) is not None or words[0] == "{python}"
    for i, word in enumerate(words[1:], 1):
        if names_in(word):
            awaited = False
        elif word.startswith("-"):
            awaited = awaited and word not in _OPTIONS_INSTEAD_OF_SCRIPT
            is_value = word in _OPTIONS_WITH_VALUE or (word.startswith("--") and "=" not in word and not awaited)
            continue
        elif not is_value and (awaited or word.endswith(_SCRIPT_SUFFIXES)):
            awaited = False
            yield i
        is_value = False


def _missing(file: Path) -> str:
    """Return the message about a file that does not exist, with the most similar one of its folder."""
    try:
        names = sorted(os.listdir(file.parent))
    except OSError:
        return f"there is no folder {file.parent}"
    return f"there is no file {format_value(file.name)} in {file.parent}. {did_you_mean(file.name, names)}"


def unused_parameters(command: Command, space: Iterable[str]) -> list[str]:
    """Return a message for each parameter that the script does not get, as far as its text shows."""
    used = command.placeholders()
    texts = [text.encode() for _, text in command.texts()]
    with suppress(OSError):  # the script cannot be read, which its run will show
        texts += [file.read_bytes() for file in command.scripts()]
    if "params" in used or any(b"SWEEPER_PARAMS" in text for text in texts):
        return []
    return [
        f"space.{name} is in no placeholder of the command, so that the script does not get it; write {{{name}}}, or "
        "read it from $SWEEPER_PARAMS"
        for name in space
        if name not in used
    ]
