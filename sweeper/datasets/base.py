"""What a dataset is: its arrays, the task they pose, and the base class of all datasets."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from sweeper.core.schema import StrictModel
from sweeper.datasets.archives import Array

Pair = tuple[Array, Array]
"""Inputs, and what belongs to each."""


@dataclass(frozen=True)
class LearningTask:
    """Sequences `[steps, features]` go in; out come the logits of `outputs` classes, or `outputs` numbers per step.

    What is classified are images: their pixels are bytes. What is forecast are floats, and so are the targets.
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
        """What inputs are multiplied with."""
        return 1.0 if self.forecasts else 1 / 255


@dataclass(frozen=True, eq=False)
class Arrays:
    """A loaded dataset, `[n, steps, features]` and what belongs to each sample, and where it came from.

    Pixels are uint8 and their labels integers; numbers to be forecast are float32, `[n, steps, 1]`, as are the inputs.

    `digest` is equal when the data, the split and its sizes are equal.
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
        """Return what identifies the data: name, digest, source, and the number of samples of each part."""
        sizes = {"train": len(self.x_train), "validation": len(self.x_val), "test": len(self.x_test)}
        return {"name": self.name, "digest": self.digest, "source": self.source, **sizes}


class Dataset(StrictModel, ABC):
    """A dataset as a sweep declares it."""

    labels: ClassVar[tuple[str, ...]] = ()

    type: Any
    train: Any
    validation: Any
    test: Any

    @property
    @abstractmethod
    def task(self) -> LearningTask:
        """What a network has to do with it."""

    def resolve(self) -> Dataset:
        """The dataset that will be used: itself, or its fallback if its files cannot be had (then of another `type`).

        Raises:
            DatasetError: the files cannot be had, and there is no fallback.
        """
        return self

    @abstractmethod
    def load(self) -> Arrays:
        """Read, verify and split the data.

        Raises:
            DatasetError: it is missing, damaged, or not what was published.
        """

    def _split(self, source: str, *, train: Pair, validation: Pair, test: Pair) -> Arrays:
        """Cut each part to the size asked for (its first samples)."""
        parts: list[Array] = []
        digest = hashlib.sha256()
        for (x, y), size in ((train, self.train), (validation, self.validation), (test, self.test)):
            parts += [self._arrange(x[:size]), y[:size]]
            digest.update(json.dumps([parts[-2].shape, parts[-1].shape]).encode())
            digest.update(parts[-2].tobytes())
            digest.update(parts[-1].tobytes())
        return Arrays(str(self.type), digest.hexdigest(), source, *parts)

    def _arrange(self, x: Array) -> Array:
        return x
