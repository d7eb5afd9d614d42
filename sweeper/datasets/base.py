"""Base class of all datasets, their arrays, and the learning task they pose."""

from __future__ import annotations

import functools
import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from sweeper.core.schema import StrictModel
from sweeper.datasets.containers import Array

Pair = tuple[Array, Array]
"""Inputs, and the label or target of each."""


@dataclass(frozen=True)
class LearningTask:
    """Shapes of a network's inputs and outputs.

    Inputs are sequences `[steps, features]`. Outputs are the logits of `outputs` classes or, if `forecasts` is true,
    `outputs` numbers at each step. Classified images have uint8 pixels; forecast series have float32 values.
    """

    steps: int
    features: int
    outputs: int
    forecasts: bool = False

    @property
    def input_type(self) -> str:
        return "float32" if self.forecasts else "uint8"

    @property
    def target_type(self) -> str:
        return "float32" if self.forecasts else "int32"

    @property
    def scale(self) -> float:
        """Factor that inputs are multiplied by."""
        return 1.0 if self.forecasts else 1 / 255


@dataclass(frozen=True, eq=False)
class Arrays:
    """A loaded dataset: its name, its source, and the inputs and targets of each part.

    Inputs have the shape `[n, steps, features]`. Images are uint8 with integer labels `[n]`; series are float32 with
    float32 targets `[n, steps, 1]`. Two datasets have the same `digest` when their data, split and sizes are equal.
    """

    name: str
    digest: str
    source: str
    x_train: Array
    y_train: Array
    x_val: Array
    y_val: Array
    x_test: Array
    y_test: Array

    def facts(self) -> dict[str, Any]:
        """Return the name, digest and source of the data, and the number of samples of each part."""
        sizes = {"train": len(self.x_train), "validation": len(self.x_val), "test": len(self.x_test)}
        return {"name": self.name, "digest": self.digest, "source": self.source, **sizes}

    def with_validation(self) -> Arrays:
        """Return the data with the samples of the validation part in the training part too, after its own."""
        import numpy as np

        x, y = np.concatenate([self.x_train, self.x_val]), np.concatenate([self.y_train, self.y_val])
        digest = hashlib.sha256(f"{self.digest} with its validation part".encode()).hexdigest()
        return replace(self, digest=digest, x_train=x, y_train=y)


class Dataset(StrictModel, ABC):
    """Base class of the datasets that a sweep can declare."""

    labels: ClassVar[tuple[str, ...]] = ()

    type: Any
    train: Any
    validation: Any
    test: Any

    @property
    @abstractmethod
    def task(self) -> LearningTask:
        """Learning task of the dataset."""

    def resolve(self) -> Dataset:
        """Return the dataset to use: this one or, if its files are not available, its fallback of another `type`.

        Raises:
            DatasetError: The files are not available, and there is no fallback; or they are damaged.
        """
        return self

    @abstractmethod
    def load(self) -> Arrays:
        """Read, verify and split the data.

        Raises:
            DatasetError: It is missing, damaged, or differs from what was published.
        """

    def images(self, x: Array) -> Array | None:
        """Return inputs as images `[n, height, width]` of uint8; None if they are no images."""
        return None

    def _split(self, source: str, *, train: Pair, validation: Pair, test: Pair) -> Arrays:
        """Return the first samples of each part, as many as the sweep declares."""
        parts: list[Array] = []
        digest = hashlib.sha256()
        for (x, y), size in ((train, self.train), (validation, self.validation), (test, self.test)):
            parts += [self.arrange(x[:size]), y[:size]]
            digest.update(json.dumps([parts[-2].shape, parts[-1].shape]).encode())
            digest.update(parts[-2].tobytes())
            digest.update(parts[-1].tobytes())
        return Arrays(str(self.type), digest.hexdigest(), source, *parts)

    def arrange(self, x: Array) -> Array:
        """Return inputs in the layout that the sweep declares."""
        return x


@functools.lru_cache(maxsize=2)
def load_once(dataset: Dataset) -> Arrays:
    """Load a dataset, or return the arrays that this process has loaded of it before."""
    return dataset.load()
