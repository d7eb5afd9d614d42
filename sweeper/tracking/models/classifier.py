"""A saved Keras model that classifies pictures, loaded to be used."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.core.environment import without_chatter
from sweeper.core.errors import InputError, TrackingError
from sweeper.core.secrets import redact
from sweeper.core.text import first_line
from sweeper.tracking.client import configure_mlflow


@dataclass(frozen=True)
class Classifier:
    """A model that returns a probability for each class of a square picture; `side` is that of the picture in pixels.

    `sample` is the shape in which it takes one: in rows, or pixel by pixel.
    """

    network: Any
    side: int
    sample: tuple[int, ...]

    @property
    def takes_pixels_one_by_one(self) -> bool:
        return self.sample[0] == self.side**2

    def probabilities(self, inputs: Any) -> Any:
        """Return `[n, classes]` for n inputs of `side` * `side` pixels from 0 to 255 each, in the model's order."""
        given = inputs.reshape(-1, *self.sample).astype(self.network.inputs[0].dtype)
        return self.network.predict(given, batch_size=1024, verbose=0)


def load_classifier(where: Path | str, tracking_uri: str) -> Classifier:
    """Load a Keras model from its folder, or from MLflow by an address such as `models:/mnist-rnn@champion`.

    Raises:
        InputError: it is no Keras model, or does not classify square pictures.
        TrackingError: there is no such model, or MLflow cannot be reached.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    configure_mlflow()
    import mlflow

    mlflow.set_tracking_uri(tracking_uri)
    shown = redact(str(where))
    try:
        flavours = mlflow.models.get_model_info(str(where)).flavors
        if "keras" not in flavours:
            raise InputError(f"{shown} is no Keras model; load it with mlflow.pyfunc.load_model({shown!r})")
        with without_chatter():
            network = mlflow.keras.load_model(str(where))
    except InputError:
        raise
    except Exception as error:
        raise TrackingError(f"the model {shown} cannot be loaded ({first_line(error)})") from error
    shapes = [tuple(tensor.shape)[1:] for tensor in network.inputs]
    pixels = math.prod(size or 0 for size in shapes[0]) if len(shapes) == 1 else 0
    side, outputs = math.isqrt(pixels), [tuple(tensor.shape)[1:] for tensor in network.outputs]
    if side < 2 or side * side != pixels or len(outputs) != 1 or len(outputs[0]) != 1:
        taken, given = (
            ", ".join(" x ".join(str(size or "any") for size in one) for one in of) for of in (shapes, outputs)
        )
        raise InputError(f"{shown} does not classify square pictures: it takes {taken}, and returns {given}")
    return Classifier(network, side, shapes[0])
