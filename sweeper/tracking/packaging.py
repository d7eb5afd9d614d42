"""Packing of a Keras model as an MLflow model, in a worker that has Keras loaded anyway; no store is used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sweeper.core.files import write_json, written_whole
from sweeper.tracking.client import configure_mlflow

PACKED = "mlflow_model"
"""Folder of the packed model, beside the Keras model it was made from."""

_EVALUATION = "evaluation.json"


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
    """Return the SHA-256 of the packed model in `folder`, names of files included; None if there is none.

    The study stores it, because anyone who can write to the folder can replace the model.
    """
    packed = folder / PACKED
    if not packed.is_dir():
        return None
    found = hashlib.sha256()
    for path in sorted(path for path in packed.rglob("*") if not path.is_dir()):
        content = b"" if path.is_symlink() else path.read_bytes()
        name = str(path.relative_to(packed)) + " link" * path.is_symlink()
        found.update(json.dumps([name, hashlib.sha256(content).hexdigest()]).encode())
    return found.hexdigest()


def store_evaluation(folder: Path, trial: int, metrics: Mapping[str, float]) -> str | None:
    """Write the test metrics of a trial beside its model; return the digest of the packed model, for the study."""
    write_json(folder / _EVALUATION, {"trial": trial, "metrics": dict(metrics)})
    return digest(folder)


def read_evaluation(folder: Path, expected_digest: str) -> tuple[int, dict[str, float]] | None:
    """Return the evaluated trial and its test metrics; None if they cannot be read or the packed model has changed."""
    try:
        found = json.loads((folder / _EVALUATION).read_text())
        metrics = {str(name): float(value) for name, value in found["metrics"].items()}
        evaluated = int(found["trial"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return (evaluated, metrics) if expected_digest and expected_digest == digest(folder) else None


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
