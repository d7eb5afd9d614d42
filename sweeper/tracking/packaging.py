"""The best model in the sweep's folder `champion/`, with its evaluation. The study holds the digests of both."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeper.core.files import files_below, open_regular, read_small, write_json

PACKED = "mlflow_model"
"""Folder of the MLflow model in `champion/`."""

_EVALUATION = "evaluation.json"

_NO_MODEL = "-"
"""In the place of the digest of a model where the best trial saved none."""

MAX_EVALUATION_BYTES = 10_000_000


def digest(folder: Path) -> str | None:
    """Return the SHA-256 of the packed model in `folder`, names of files included.

    The study stores it, because anyone who can write to the folder can replace the model.

    Returns:
        None if there is no packed model, or it is not only of files and folders: no link is followed.
    """
    found = hashlib.sha256()
    try:
        for name, path in sorted(files_below(folder / PACKED).items(), key=lambda item: item[1]):
            with open_regular(path) as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            found.update(json.dumps([name, content]).encode())
    except OSError:
        return None
    return found.hexdigest()


def store_evaluation(
    folder: Path, trial: int, metrics: Mapping[str, float], predictions: Mapping[str, Any] | None = None
) -> str:
    """Write the test metrics of a trial beside its model, if it has one; return the digest of both, for the study.

    Args:
        predictions: what it predicted for the test set, for the report on the sweep.
    """
    known = {} if predictions is None else {"predictions": dict(predictions)}
    write_json(folder / _EVALUATION, {"trial": trial, "metrics": dict(metrics), **known})
    content = read_small(folder / _EVALUATION, MAX_EVALUATION_BYTES)
    return f"{_state(folder) or ''} {hashlib.sha256(content).hexdigest()}"


def read_evaluation(folder: Path, expected: str | None) -> tuple[int, dict[str, float]] | None:
    """Return the evaluated trial and its test metrics; None if they or the packed model have changed.

    Args:
        expected: what `store_evaluation` returned; sweeper 0.2 returned only the digest of the packed model.
    """
    found = read_test(folder, expected)
    return None if found is None else found[:2]


def read_test(folder: Path, expected: str | None) -> tuple[int, dict[str, float], Any] | None:
    """Return what `read_evaluation` does, and what `store_evaluation` got as predictions; None if it got none."""
    packed, _, evaluation = (expected or "").partition(" ")
    try:
        content = read_small(folder / _EVALUATION, MAX_EVALUATION_BYTES)
        if evaluation not in ("", hashlib.sha256(content).hexdigest()):
            return None
        found = json.loads(content)
        metrics = {str(name): float(value) for name, value in found["metrics"].items()}
        evaluated = int(found["trial"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return (evaluated, metrics, found.get("predictions")) if packed and packed == _state(folder) else None


def _state(folder: Path) -> str | None:
    """Return the digest of the packed model, `_NO_MODEL` if nothing has its name, None for what is no model."""
    return digest(folder) if os.path.lexists(folder / PACKED) else _NO_MODEL
