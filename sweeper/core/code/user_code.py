"""The user's trainable: find, load and digest it."""

from __future__ import annotations

import os
import re
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sweeper.core.code.functions import MAIN, digest_function, function_at, function_leaves_model, modules_of
from sweeper.core.code.source import (
    SourceModule,
    code_digests,
    first_annotation,
    import_user_module,
    locate_module,
    mentions_model,
    own_files,
    root_of,
    script_digests,
)
from sweeper.core.errors import InputError
from sweeper.core.text import format_value

TRAINABLE_PATTERN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")

HERE = Path()
"""The current folder: there the driver looks for the user's code. A worker looks in the copy that the driver made."""


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


def find_trainable(path: str, folder: Path | None = HERE) -> TrainableInfo:
    """Find a trainable in its source. Imports only the module that declares its hyperparameters.

    Args:
        folder: where it is looked for before Python's path; None: only on Python's path.

    Raises:
        InputError: The module or function does not exist, or its source has a syntax error.
    """
    module, function = _split(path)
    if (known := function_at(path)) is not None:
        return TrainableInfo(module, function, known[1], digest_function(known[0]))
    source = SourceModule.of(module, folder and folder.absolute())
    where, node = source.definition(function)
    annotation = first_annotation(where, node)
    params_model = None if annotation is None else where.resolve(annotation)
    return TrainableInfo(module, function, params_model, where.digest)


def load_trainable(path: str, folder: Path | None = HERE) -> Callable[..., Any]:
    """Import a trainable; `folder` as in `find_trainable`.

    Raises:
        InputError: It cannot be imported, or is not callable.
    """
    if (known := function_at(path)) is not None:
        return known[0]
    module, function = _split(path)
    found = getattr(import_user_module(module, folder and folder.absolute()), function, None)
    if not callable(found):
        raise InputError(f"{path} is not a function" if found is not None else f"{module} has no {function!r}")
    return found  # type: ignore[no-any-return]


def has_evaluation(trainable: TrainableCode) -> bool:
    """Return whether a trainable can evaluate its model on the test set; a command cannot."""
    return isinstance(trainable, str) and hasattr(load_trainable(trainable), "evaluate")


def has_prediction(trainable: TrainableCode) -> bool:
    """Return whether a trainable can classify the validation set with its model; a command cannot."""
    return isinstance(trainable, str) and hasattr(load_trainable(trainable), "predict")


def _split(path: str) -> tuple[str, str]:
    if not TRAINABLE_PATTERN.fullmatch(path):
        raise InputError(f"{format_value(path)} is not of the form package.module:function")
    module, _, function = path.partition(":")
    return module, function


class Scripts(Protocol):
    """A trainable that is a command: its script files, and the folder that it runs in."""

    @property
    def root(self) -> Path: ...
    def scripts(self) -> list[Path]: ...
    def leaves_model(self) -> bool: ...


TrainableCode = str | Scripts
"""Function, as package.module:function, or a command."""

SWEEPER = Path(__file__).resolve().parents[2]
"""Folder of the package `sweeper`."""


def user_code_root(trainable: TrainableCode) -> Path | None:
    """Return the folder of a trainable's module or scripts; None if it is installed.

    An installed module is not copied, because nodes must have it installed too.

    Raises:
        InputError: The module does not exist.
    """
    if not isinstance(trainable, str):
        here = trainable.root
        return here if any(file.is_relative_to(here) for file in trainable.scripts()) else None
    module, _ = _split(trainable)
    if module.startswith("sweeper."):
        return None
    if module == MAIN:
        return HERE.resolve() if len(digest_user_code(trainable)) > 1 else None
    spec = locate_module(module.partition(".")[0], HERE.absolute())
    if spec is None or (spec.origin is None and not spec.submodule_search_locations):
        raise InputError(f"there is no module {module!r} in {os.getcwd()} or on Python's path")
    root = root_of(spec)
    return None if root is None or is_installed(root) else root.resolve()


def is_installed(path: Path | str) -> bool:
    """Return whether a file or folder belongs to Python or to an installed package."""
    place = Path(path).resolve()
    return any(place.is_relative_to(Path(folder).resolve()) for folder in sysconfig.get_paths().values())


def is_own_code(file: Path | str) -> bool:
    """Return whether a file of code is the user's: neither Python's, nor of an installed package, nor of sweeper."""
    return not Path(file).resolve().is_relative_to(SWEEPER) and not is_installed(file)


def digest_user_code(trainable: TrainableCode) -> dict[str, str]:
    """Return the digests of the user's files that a trainable consists of, by their paths; {} if it is installed."""
    if not isinstance(trainable, str):
        return script_digests(trainable.root, trainable.scripts())
    if (known := function_at(trainable)) is not None:
        found = {trainable: digest_function(known[0])}
        for module in modules_of(known[0]):
            found |= code_digests(HERE.resolve(), module)
        return found
    root = user_code_root(trainable)
    return {} if root is None else code_digests(root, _split(trainable)[0])


def leaves_model(trainable: TrainableCode, code: Path | None = None) -> bool:
    """Return whether a trainable's code mentions what leaves a model to register; True if it is installed code.

    Args:
        code: the folder that it is imported from; by default where Python finds it.
    """
    if not isinstance(trainable, str):
        return trainable.leaves_model()
    if function_at(trainable) is not None:
        return function_leaves_model(trainable)
    root = code or user_code_root(trainable)
    files = () if root is None else own_files(root, _split(trainable)[0])
    return root is None or any(mentions_model(content.decode(errors="replace")) for _, content in files)
