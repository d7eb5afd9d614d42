"""The user's own code as it is shipped to a cluster: the Python files beside the trainable's module."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from sweeper.core.user_code import copy_code


@contextmanager
def shipped(trainable: str | None) -> Iterator[dict[str, Any]]:
    """The options of `ray.init`, within the block, that bring the user's own code to all nodes of a cluster."""
    with TemporaryDirectory() as folder:
        if trainable and RAY_JOB_CONFIG_JSON_ENV_VAR not in os.environ:  # a job has brought it already
            copy_code(trainable, Path(folder))
        modules = sorted(str(path) for path in Path(folder).iterdir())
        yield {"runtime_env": {"py_modules": modules}} if modules else {}
