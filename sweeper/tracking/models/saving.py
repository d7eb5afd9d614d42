"""Saving of models as MLflow models, each by the flavour of its class. No store is used.

A library is imported only when one of its models is saved: sweeper itself needs only Keras and scikit-learn.
"""

from __future__ import annotations

import inspect
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from sweeper.core.code.user_code import is_own_code
from sweeper.core.files import remove
from sweeper.tracking.client import configure_mlflow

MLMODEL = "MLmodel"
"""File of an MLflow model that says how it is loaded."""

PLAIN_FILES = "files"
"""Subfolder, and flavour, of files that are no MLflow model: they can be registered and downloaded, but not loaded."""

KERAS_CODE = Path(__file__).with_name("keras_code.py")
"""The file that is copied into a Keras model, beside `data/model.keras`."""


@dataclass(frozen=True)
class Flavour:
    """A library whose models can be saved: its name, the classes of its models, and the packages to load them with."""

    label: str
    classes: tuple[str, ...]
    packages: tuple[str, ...]
    save: Callable[[Any, Path, dict[str, Any]], None]


def save_model(model: Any, folder: Path, example: Any = None) -> None:
    """Save a model, or the files of a folder, in an empty folder as an MLflow model.

    The requirements are pinned to the versions that are installed here. By default MLflow finds them by loading the
    model in another process, which takes 15 s.

    Args:
        example: some inputs, for people to look at. They limit neither the types nor the shapes of other inputs.

    Raises:
        TypeError: no flavour fits the model.
        FileNotFoundError: there is no such folder or file.
        ValueError: the folder has a file MLmodel that MLflow cannot read.
    """
    if isinstance(model, str | os.PathLike):
        _save_files(Path(model), folder)
        return
    flavour = _flavour_of(model)
    if flavour is None:
        known = ", ".join(each.label for each in FLAVOURS.values())
        raise TypeError(
            f"trial.save_model cannot save {_article(type(model).__name__)}; it takes a model of {known}, "
            "or a folder with the files of any other"
        )
    configure_mlflow()
    options = {"input_example": example, "pip_requirements": _pinned("mlflow", *flavour.packages, "numpy")}
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", ".*Any type hint is inferred", UserWarning
        )  # MLflow, of itself, when imported
        # Keras 3 reads TensorFlow's variables in a way that NumPy 2 deprecates.
        warnings.filterwarnings("ignore", "__array__ implementation doesn't accept", DeprecationWarning)
        flavour.save(model, folder, options)


def can_save(thing: Any) -> bool:
    """Return whether `save_model` takes a thing as the model of a library."""
    return _flavour_of(thing) is not None


def _flavour_of(model: Any) -> Flavour | None:
    """Return the flavour of the first class of a library among the classes that the model's class derives from."""
    for kind in type(model).__mro__:
        flavour = FLAVOURS.get(kind.__module__.partition(".")[0])
        if flavour is not None and kind.__name__ in flavour.classes:
            return flavour
    return None


def _save_keras(model: Any, folder: Path, options: dict[str, Any]) -> None:
    """Save a Keras model with the code in `KERAS_CODE` around it; `mlflow.keras.load_model` still loads it alone."""
    import keras
    from mlflow.keras import save_model as save
    from mlflow.models import Model

    backend = str(keras.backend.backend())
    options["pip_requirements"] += _pinned(backend) or _pinned(f"{backend}-cpu")
    save(model, str(folder), **options)
    meta = Model.load(str(folder))
    shutil.copyfile(KERAS_CODE, folder / KERAS_CODE.name)
    model_file = f"{meta.flavors['keras']['data']}/model.keras"
    meta.flavors["python_function"].update(
        loader_module="mlflow.pyfunc.loaders.code_model",
        model_code_path=KERAS_CODE.name,
        artifacts={"model": {"path": model_file, "uri": model_file}},
        config={"keras_backend": backend},
        streamable=False,
    )
    meta.signature = _output_signature(model)
    meta.save(str(folder / MLMODEL))


def _output_signature(model: Any) -> Any:
    """Return the signature of a model with one output, None for any other.

    It has no inputs: MLflow would refuse each input of another type, such as uint8 for float32.
    """
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    outputs: Any = getattr(model, "outputs", None) or ()
    if len(outputs) != 1:
        return None
    shape = tuple(-1 if size is None else int(size) for size in outputs[0].shape)
    dtype = str(outputs[0].dtype).replace("bfloat16", "float32")  # NumPy has no such type
    return ModelSignature(outputs=Schema([TensorSpec(np.dtype(dtype), shape)]))


def _save_sklearn(model: Any, folder: Path, options: dict[str, Any]) -> None:
    _save_without_pickle_if_possible("mlflow.sklearn", model, folder, options)


def _save_lightgbm(model: Any, folder: Path, options: dict[str, Any]) -> None:
    _save_without_pickle_if_possible("mlflow.lightgbm", model, folder, options)


def _save_without_pickle_if_possible(module: str, model: Any, folder: Path, options: dict[str, Any]) -> None:
    """Save a model in MLflow's default format, which holds no pickle; if that cannot hold it, with cloudpickle."""
    from mlflow.exceptions import MlflowException

    save, needed = import_module(module).save_model, options["pip_requirements"]
    try:
        save(model, str(folder), signature=False, **options | {"pip_requirements": needed + _pinned("skops")})
    except MlflowException:
        for path in folder.iterdir():
            remove(path)
        options = options | {"pip_requirements": needed + _pinned("cloudpickle")}
        with _own_classes_by_value():
            save(model, str(folder), signature=False, serialization_format="cloudpickle", **options)


def _save_torch(model: Any, folder: Path, options: dict[str, Any]) -> None:
    """Save a PyTorch module with its class; MLflow's default format would need an example and fix the shapes."""
    save = import_module("mlflow.pytorch").save_model
    format_of = {"serialization_format": "pickle"}
    if "serialization_format" not in inspect.signature(save).parameters:  # before MLflow 3.12
        format_of = {}
    with _own_classes_by_value():
        save(model, str(folder), signature=False, **format_of, **options)


def _save_xgboost(model: Any, folder: Path, options: dict[str, Any]) -> None:
    import_module("mlflow.xgboost").save_model(model, str(folder), signature=False, **options)


FLAVOURS = {
    "keras": Flavour("Keras", ("Model",), ("keras",), _save_keras),
    "sklearn": Flavour("scikit-learn", ("BaseEstimator",), ("scikit-learn", "scipy"), _save_sklearn),
    "torch": Flavour("PyTorch", ("Module",), ("torch", "cloudpickle"), _save_torch),
    "xgboost": Flavour("XGBoost", ("Booster", "XGBModel"), ("xgboost",), _save_xgboost),
    "lightgbm": Flavour("LightGBM", ("Booster", "LGBMModel"), ("lightgbm",), _save_lightgbm),
}
"""Flavours, by the top module of their classes."""


def _save_files(source: Path, folder: Path) -> None:
    """Copy an MLflow model, or any other folder or file; what links lead to is copied in their place."""
    if not source.exists():
        raise FileNotFoundError(f"trial.save_model: there is no folder {source}")
    configure_mlflow()
    from mlflow.models import Model

    if (source / MLMODEL).is_file():
        shutil.copytree(source, folder, dirs_exist_ok=True)
        try:
            Model.load(str(folder))
        except Exception as error:  # whatever YAML and MLflow raise about a file that is none of theirs
            raise ValueError(f"trial.save_model: MLflow cannot read {source / MLMODEL} ({error})") from error
        return
    if source.is_dir():
        shutil.copytree(source, folder / PLAIN_FILES)
    else:
        (folder / PLAIN_FILES).mkdir()
        shutil.copyfile(source, folder / PLAIN_FILES / source.name)
    Model(flavors={PLAIN_FILES: {"path": PLAIN_FILES}}).save(str(folder / MLMODEL))


@contextmanager
def _own_classes_by_value() -> Iterator[None]:
    """Let cloudpickle write the user's own classes into the model: where it is loaded, nobody has their modules."""
    import cloudpickle

    own = {}
    for name, module in list(sys.modules.items()):
        file = vars(module).get("__file__") if isinstance(module, ModuleType) else None  # getattr() loads lazy modules
        if file and name == module.__name__ and is_own_code(file):
            own[name] = module
    for name in own.keys() & cloudpickle.list_registry_pickle_by_value():
        del own[name]
    for module in own.values():
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in own.values():
            cloudpickle.unregister_pickle_by_value(module)


def _pinned(*names: str) -> list[str]:
    """Return the requirements of those packages that are installed, each with its version."""
    found = []
    for name in names:
        try:
            found.append(f"{name}=={version(name)}")
        except PackageNotFoundError:
            continue
    return found


def _article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
