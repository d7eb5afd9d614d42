"""Packs a Keras model as an MLflow model, in a worker that has Keras loaded anyway. No store is touched."""

from __future__ import annotations

import hashlib
import json
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sweeper.tracking.client import prepare

PACKED = "mlflow_model"
"""The folder of the packed model, beside the model it was made of."""


def package_model(folder: Path) -> Path:
    """Make `folder/mlflow_model` of `folder/model.keras` and `folder/example.npy`; where Keras is loaded anyway.

    The requirements are those installed here. Left alone, MLflow would find them by loading the model in another
    process, for a quarter of a minute.
    """
    prepare()
    import keras
    import numpy as np
    from mlflow.keras import save_model
    from mlflow.models import infer_signature

    model = keras.saving.load_model(folder / "model.keras", compile=False, safe_mode=True)
    example = np.load(folder / "example.npy", allow_pickle=False)
    signature = infer_signature(example, model.predict(example, verbose=0))
    target, beside = folder / PACKED, folder / f".{PACKED}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    save_model(model, str(beside), signature=signature, input_example=example, pip_requirements=_requirements())
    shutil.rmtree(target, ignore_errors=True)
    return beside.rename(target)


def digest(folder: Path) -> str | None:
    """The SHA-256 of the packed model in `folder`, with the names of its files; None if there is none.

    The study remembers it: what is in a folder may have been put there by anyone who could write to it since.
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


def _requirements() -> list[str]:
    """What the model needs to be loaded, in exactly the versions it was made with."""
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
