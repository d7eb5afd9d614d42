"""Datasets that `train_rnn` can learn: the name, the split and the loading of each."""

from __future__ import annotations

import logging
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sweeper.core.errors import InputError
from sweeper.core.schema import Integer
from sweeper.datasets.archives import FASHION_MNIST, MNIST, Archive, DatasetMissingError
from sweeper.datasets.base import Arrays, Dataset, LearningTask
from sweeper.datasets.containers import Array

logger = logging.getLogger(__name__)


class _SquareImages(Dataset):
    """Square images of several classes, read as sequences."""

    side: ClassVar[int]
    labels: ClassVar[tuple[str, ...]] = tuple("0123456789")

    layout: Literal["rows", "columns", "pixels", "permuted"] = Field(
        "rows", description="One time step: a row, a column, a pixel, or a pixel in a fixed random order."
    )

    @property
    def task(self) -> LearningTask:
        by_pixel = self.layout in ("pixels", "permuted")
        return LearningTask(*((self.side**2, 1) if by_pixel else (self.side, self.side)), len(self.labels))

    def arrange(self, x: Array) -> Array:
        import numpy as np

        if self.layout == "columns":
            return np.ascontiguousarray(x.transpose(0, 2, 1))
        if self.layout == "rows":
            return x
        pixels = x.reshape(len(x), -1, 1)
        return pixels if self.layout == "pixels" else np.ascontiguousarray(pixels[:, self._order()])

    def images(self, x: Array) -> Array:
        import numpy as np

        if self.layout in ("rows", "columns"):
            return x if self.layout == "rows" else x.transpose(0, 2, 1)
        pixels = x if self.layout == "pixels" else x[:, np.argsort(self._order())]
        return pixels.reshape(-1, self.side, self.side)

    def _order(self) -> Array:
        """Return the order of the pixels in the layout `permuted`."""
        import numpy as np

        # RandomState's stream is frozen for good, unlike default_rng's.
        return np.random.RandomState(0).permutation(self.side**2)


class _ArchivedImages(_SquareImages):
    """Images of 28 x 28 pixels: the first 5,000 for validation, the next 55,000 for training, 10,000 for testing."""

    archive: ClassVar[Archive]
    side: ClassVar[int] = 28

    fallback: Literal["digits"] | None = Field(None, description="Dataset to use if this one is not available.")
    train: Integer | None = Field(None, ge=1, le=55_000, description="Samples to train on (default: all 55,000).")
    validation: Integer | None = Field(None, ge=1, le=5_000, description="Samples to validate on (default: all 5,000).")
    test: Integer | None = Field(None, ge=1, le=10_000, description="Samples to test on (default: all 10,000).")

    def resolve(self) -> Dataset:
        try:
            self.archive.check(self.archive.locate())
        except DatasetMissingError as error:
            if self.fallback is None:
                raise
            logger.info("%s; using %s instead", error, self.fallback)
            sizes = {"train": self.train, "validation": self.validation, "test": self.test}
            few = {part: min(size, _DIGITS[part]) for part, size in sizes.items() if size is not None}
            return Digits.model_validate({"layout": self.layout, **few})
        return self

    def load(self) -> Arrays:
        files = self.archive.locate()
        data = self.archive.read(files)
        x, y = data["x_train"], data["y_train"].astype("int32")
        return self._split(
            str(files[0] if len(files) == 1 else files[0].parent),
            train=(x[5_000:], y[5_000:]),
            validation=(x[:5_000], y[:5_000]),
            test=(data["x_test"], data["y_test"].astype("int32")),
        )


class Mnist(_ArchivedImages):
    """Handwritten digits (LeCun, Cortes, Burges)."""

    archive: ClassVar[Archive] = MNIST

    type: Literal["mnist"] = "mnist"


class FashionMnist(_ArchivedImages):
    """Articles of clothing (Zalando)."""

    archive: ClassVar[Archive] = FASHION_MNIST
    labels: ClassVar[tuple[str, ...]] = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )

    type: Literal["fashion_mnist"] = "fashion_mnist"


_DIGITS = {"train": 1_200, "validation": 297, "test": 300}


class Digits(_SquareImages):
    """Scikit-learn's 1,797 digits of 8 x 8 pixels, which need no file and no network."""

    side: ClassVar[int] = 8

    type: Literal["digits"] = "digits"
    train: Integer | None = Field(
        None, ge=1, le=_DIGITS["train"], description="Samples to train on (default: all 1,200)."
    )
    validation: Integer | None = Field(
        None, ge=1, le=_DIGITS["validation"], description="Samples to validate on (default: all 297)."
    )
    test: Integer | None = Field(None, ge=1, le=_DIGITS["test"], description="Samples to test on (default: all 300).")

    def load(self) -> Arrays:
        import numpy as np
        from sklearn.datasets import load_digits

        data = load_digits()
        # RandomState's stream is frozen for good, unlike default_rng's. The file has the digits of one writer together.
        order = np.random.RandomState(0).permutation(len(data.target))
        x = np.round(data.images[order] * (255 / 16)).astype(np.uint8)
        y = data.target[order].astype("int32")
        val, train, test = slice(0, 297), slice(297, 1_497), slice(1_497, None)
        return self._split(
            "scikit-learn",
            train=(x[train], y[train]),
            validation=(x[val], y[val]),
            test=(x[test], y[test]),
        )


class TimeSeries(Dataset):
    """Windows of t sin(t) / 3 + 2 sin(5 t); at each time step, the network forecasts the next value.

    Source: A. Géron, Hands-On Machine Learning with Scikit-Learn and TensorFlow, chapter 14.
    """

    type: Literal["time_series"] = "time_series"
    train: Integer = Field(10_000, ge=1, le=1_000_000, description="Windows to train on.")
    validation: Integer = Field(1_000, ge=1, le=1_000_000, description="Windows to validate on.")
    test: Integer = Field(1_000, ge=1, le=1_000_000, description="Windows to test on.")
    steps: Integer = Field(20, ge=2, le=250, description="Time steps of a window, each of 0.1.")

    @property
    def task(self) -> LearningTask:
        return LearningTask(self.steps, 1, 1, forecasts=True)

    def load(self) -> Arrays:
        import numpy as np

        count = self.train + self.validation + self.test
        starts = np.random.RandomState(0).uniform(0, 30 - 0.1 * self.steps, (count, 1))
        t = starts + 0.1 * np.arange(self.steps + 1)
        values = (t * np.sin(t) / 3 + 2 * np.sin(5 * t)).astype(np.float32)[:, :, None]
        x, y, first, last = values[:, :-1], values[:, 1:], self.train, self.train + self.validation
        parts = {"train": slice(0, first), "validation": slice(first, last), "test": slice(last, None)}
        pairs = {name: (np.ascontiguousarray(x[part]), np.ascontiguousarray(y[part])) for name, part in parts.items()}
        return self._split("generated", **pairs)


def images_of(declared: Dataset | None, side: int, *, by_pixel: bool) -> _SquareImages:
    """Return the dataset whose images a model takes: the declared one, or its fallback, or what fits their size.

    Args:
        by_pixel: whether the model takes one pixel at a time, where no layout is declared.

    Raises:
        InputError: no dataset has images of so many pixels.
    """
    images = declared if isinstance(declared, _SquareImages) else None
    if images is not None and images.side == side:
        return images
    layout = images.layout if images is not None else "pixels" if by_pixel else "rows"
    for known in (Mnist, Digits):
        if known.side == side:
            return known(layout=layout)
    raise InputError(f"the model takes pictures of {side} x {side} pixels; MNIST has 28 x 28, and digits 8 x 8")


AnyDataset = Annotated[Mnist | FashionMnist | Digits | TimeSeries, Field(discriminator="type")]
