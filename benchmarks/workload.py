"""The same work for every peer: a fixed list of configurations, a slice of MNIST, a plain Keras model."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path
from typing import Any

EPOCHS, TRAIN, VALIDATION, PARALLEL = 3, 10_000, 2_000, 2
SPACE: dict[str, list[Any]] = {
    "cell": ["simple_rnn", "lstm", "gru"],
    "units": [32, 64, 96, 128],
    "batch_size": [64, 128],
    "learning_rate": [0.001, 0.003],
}
_LAYERS = {"simple_rnn": "SimpleRNN", "lstm": "LSTM", "gru": "GRU"}


def configurations(count: int) -> list[dict[str, Any]]:
    """Return the first `count` of the 48 points of the space, shuffled so that cells and widths are mixed."""
    points = [dict(zip(SPACE, point, strict=True)) for point in itertools.product(*SPACE.values())]
    random.Random(0).shuffle(points)
    return points[:count]


def missing_data() -> str | None:
    """Return why the data cannot be loaded; None if it can."""
    folder = os.environ.get("SWEEPER_DATA_DIR")
    if folder is None:
        return "SWEEPER_DATA_DIR is not set; it names the folder of mnist.npz"
    path = Path(folder) / "mnist.npz"
    return None if path.is_file() else f"there is no {path}; SWEEPER_DATA_DIR names the folder of mnist.npz"


def load_data() -> tuple[Any, Any, Any, Any]:
    """Return pixels from 0 to 1 and labels, for training and for validation."""
    import numpy as np

    with np.load(Path(os.environ["SWEEPER_DATA_DIR"]) / "mnist.npz") as arrays:
        x, y = arrays["x_train"][: TRAIN + VALIDATION].astype("float32") / 255, arrays["y_train"][: TRAIN + VALIDATION]
    return x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:]


def build_model(config: dict[str, Any]) -> Any:
    import keras

    layer = getattr(keras.layers, _LAYERS[config["cell"]])
    model = keras.Sequential([keras.Input((28, 28)), layer(int(config["units"])), keras.layers.Dense(10)])
    model.compile(
        optimizer=keras.optimizers.Adam(float(config["learning_rate"])),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def fit(config: dict[str, Any], data: tuple[Any, Any, Any, Any], callbacks: list[Any] | None = None) -> float:
    """Train one configuration with `model.fit`; return its accuracy on the validation images."""
    x, y, x_val, y_val = data
    history = build_model(config).fit(
        x,
        y,
        batch_size=int(config["batch_size"]),
        epochs=EPOCHS,
        validation_data=(x_val, y_val),
        callbacks=callbacks,
        verbose=0,
    )
    return float(history.history["val_accuracy"][-1])
