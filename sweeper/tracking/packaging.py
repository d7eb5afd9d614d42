"""Packing of a Keras model as an MLflow model, in a worker that has Keras loaded anyway; no store is used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sweeper.core.files import files_below, open_regular, read_small, write_json, written_whole
from sweeper.tracking.client import configure_mlflow

PACKED = "mlflow_model"
"""Folder of the packed model, beside the Keras model it was made from."""

_EVALUATION = "evaluation.json"

MAX_EVALUATION_BYTES = 10_000_000


def package_model(folder: Path) -> Path:
    """Create `folder/mlflow_model` from `folder/model.keras` and `folder/example.npy`; return its path.

    Pins the requirements to the versions that are installed here. By default MLflow finds them by loading the model in
    another process, which takes 15 s.
    """
    configure_mlflow()
    import keras
    import numpy as np
    from mlflow.keras import save_model
    from mlflow.models import infer_signature

    model = keras.saving.load_model(folder / "model.keras", compile=False, safe_mode=True)
    example = np.load(folder / "example.npy", allow_pickle=False)
    signature = infer_signature(example, model.predict(example, verbose=0))
    with written_whole(folder / PACKED) as beside:
        beside.mkdir()  # MLflow saves the example before it makes the folder
        save_model(model, str(beside), signature=signature, input_example=example, pip_requirements=_requirements())
    return folder / PACKED


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


def store_evaluation(folder: Path, trial: int, metrics: Mapping[str, float]) -> str | None:
    """Write the test metrics of a trial beside its model; return the digest of both, for the study.

    Returns:
        None if there is no packed model.
    """
    write_json(folder / _EVALUATION, {"trial": trial, "metrics": dict(metrics)})
    packed = digest(folder)
    content = read_small(folder / _EVALUATION, MAX_EVALUATION_BYTES)
    return None if packed is None else f"{packed} {hashlib.sha256(content).hexdigest()}"


def read_evaluation(folder: Path, expected: str | None) -> tuple[int, dict[str, float]] | None:
    """Return the evaluated trial and its test metrics; None if they or the packed model have changed.

    Args:
        expected: what `store_evaluation` returned; sweeper 0.2 returned only the digest of the packed model.
    """
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
    return (evaluated, metrics) if packed and packed == digest(folder) else None


def _requirements() -> list[str]:
    """Return the packages that loading the model needs, pinned to the versions it was made with."""
    import keras

    backend = str(keras.backend.backend())
    pinned: list[str] = []
    for names in (("mlflow",), ("keras",), ("numpy",), (backend, f"{backend}-cpu")):
        for name in names:
            try:
                pinned.append(f"{name}=={version(name)}")
                break
            except PackageNotFoundError:
                continue
    return pinned
