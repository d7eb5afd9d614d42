"""The user's own code as it is shipped to a cluster: the Python files beside the trainable's module."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from sweeper.core.errors import InputError
from sweeper.spec.trainables import root_of

_SWEEPER = Path(__file__).parent
_LEFT_OUT = ("__pycache__", "site-packages", "node_modules", "venv", "build", "dist", "sweeps", "mlartifacts")
_MOST, _LARGEST = 2000, 10 << 20
"""Files, and bytes in all: more is not somebody's code, but a folder that holds all sorts of things."""


def own_code(trainable: str) -> Path | None:
    """The folder that a trainable's module is imported from; None if it is installed, as it must be there too."""
    root = root_of(trainable)
    installed = {Path(path).resolve() for path in sysconfig.get_paths().values()}
    is_installed = trainable.partition(".")[0] == "sweeper" or any(root.is_relative_to(path) for path in installed)
    return None if is_installed else root


@contextmanager
def shipped(trainable: str | None) -> Iterator[dict[str, Any]]:
    """The options of `ray.init`, within the block, that bring the user's own code to all nodes of a cluster."""
    with TemporaryDirectory() as folder:
        if trainable and RAY_JOB_CONFIG_JSON_ENV_VAR not in os.environ:  # a job has brought it already
            copy_code(trainable, Path(folder))
        modules = sorted(str(path) for path in Path(folder).iterdir())
        yield {"runtime_env": {"py_modules": modules}} if modules else {}


def copy_code(trainable: str, target: Path) -> None:
    """Copy the Python files of the folder that the trainable's module is imported from, if it is the user's own.

    Raises:
        InputError: there are too many.
    """
    root = own_code(trainable)
    if root is None:
        return
    copied = size = 0
    for folder, names, files in os.walk(root):
        kept = [name for name in names if not name.startswith(".") and name not in _LEFT_OUT]
        names[:] = [name for name in kept if Path(folder, name) != _SWEEPER]  # which the nodes must have
        for file in (Path(folder, name) for name in files if name.endswith(".py")):
            copied, size = copied + 1, size + file.stat().st_size
            if copied > _MOST or size > _LARGEST:
                raise InputError(
                    f"{root} holds more than {_MOST:,} Python files or {_LARGEST >> 20} MB: start from a folder with "
                    f"the code of {trainable} alone, or install it on the cluster"
                )
            place = target / file.relative_to(root)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
