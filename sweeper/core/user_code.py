"""The user's trainable: find, load, digest and copy it."""

from __future__ import annotations

import os
import re
import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.core.errors import InputError
from sweeper.core.source_code import SourceModule, first_annotation, import_user_module, locate_module
from sweeper.core.text import format_value

TRAINABLE_PATTERN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@dataclass(frozen=True)
class TrainableInfo:
    """A trainable that exists: its module, its function, and the class of its first parameter.

    `params_model` is None for a trainable that takes any parameters. `digest` is the SHA-256 of the module that defines
    the function, without its comments and layout.
    """

    module: str
    function: str
    params_model: type[Any] | None
    digest: str


def find_trainable(path: str) -> TrainableInfo:
    """Find a trainable in its source. Imports only the module that declares its hyperparameters.

    Raises:
        InputError: The module or function does not exist, or its source has a syntax error.
    """
    module, function = _split(path)
    source = SourceModule.of(module)
    where, node = source.definition(function)
    annotation = first_annotation(where, node)
    params_model = None if annotation is None else where.resolve(annotation)
    return TrainableInfo(module, function, params_model, where.digest)


def root_of(path: str) -> Path:
    """Return the folder that a trainable's module is imported from.

    Raises:
        InputError: The module does not exist.
    """
    module, _ = _split(path)
    spec = locate_module(module.partition(".")[0])
    if spec is None or (spec.origin is None and not spec.submodule_search_locations):
        raise InputError(f"there is no module {module!r} in {os.getcwd()} or on Python's path")
    place = next(iter(spec.submodule_search_locations or ()), spec.origin)
    return Path(str(place)).resolve().parent


def load_trainable(path: str) -> Callable[..., Any]:
    """Import a trainable.

    Raises:
        InputError: It cannot be imported, or is not callable.
    """
    module, function = _split(path)
    found = getattr(import_user_module(module), function, None)
    if not callable(found):
        raise InputError(f"{path} is not a function" if found is not None else f"{module} has no {function!r}")
    return found  # type: ignore[no-any-return]


def _split(path: str) -> tuple[str, str]:
    if not TRAINABLE_PATTERN.fullmatch(path):
        raise InputError(f"{format_value(path)} is not of the form package.module:function")
    module, _, function = path.partition(":")
    return module, function


_SWEEPER = Path(__file__).resolve().parents[1]


_SKIPPED_FOLDERS = ("__pycache__", "site-packages", "node_modules", "venv", "build", "dist", "sweeps", "mlartifacts")


MAX_FILES, MAX_BYTES = 2000, 10 << 20
"""Limits of a copy. A larger folder holds more than the user's code."""


def user_code_root(trainable: str) -> Path | None:
    """Return the folder that a trainable's module is imported from; None if it is installed.

    An installed module is not copied, because nodes must have it installed too.
    """
    root = root_of(trainable)
    return None if trainable.partition(".")[0] == "sweeper" or is_installed(root) else root


def is_installed(path: Path | str) -> bool:
    """Return whether a file or folder belongs to Python or to an installed package."""
    place = Path(path).resolve()
    return any(place.is_relative_to(Path(folder).resolve()) for folder in sysconfig.get_paths().values())


def copy_user_code(trainable: str, target: Path) -> None:
    """Copy the Python files of `user_code_root` to `target`. Does nothing if the trainable is installed.

    Raises:
        InputError: There are more than `MAX_FILES` files or `MAX_BYTES` bytes.
    """
    root = user_code_root(trainable)
    if root is None:
        return
    copied = size = 0
    for folder, names, files in os.walk(root):
        kept = [name for name in names if not name.startswith(".") and name not in _SKIPPED_FOLDERS]
        names[:] = [name for name in kept if Path(folder, name) != _SWEEPER]  # nodes have it installed
        for file in (Path(folder, name) for name in files if name.endswith(".py")):
            copied, size = copied + 1, size + file.stat().st_size
            if copied > MAX_FILES or size > MAX_BYTES:
                raise InputError(
                    f"{root} holds more than {MAX_FILES:,} Python files or {MAX_BYTES >> 20} MB. Start from a "
                    f"folder with only the code of {trainable}, or install that code on the cluster"
                )
            place = target / file.relative_to(root)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
