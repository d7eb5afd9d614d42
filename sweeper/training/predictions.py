"""What a classifier predicts for the test set: counts by class, and its worst mistakes as pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

from sweeper.core.predictions import Mistake, Predictions

Array = Any

MAX_MISTAKES = 12
"""Mistakes that are kept, those with the highest probabilities."""


def summarise(
    logits: Array, labels: Array, classes: tuple[str, ...], images: Callable[[Array], Array | None]
) -> Predictions:
    """Summarise predictions.

    Args:
        logits: `[n, classes]`.
        labels: the class of each sample, `[n]`.
        images: returns the samples with these places as images `[n, height, width]` of uint8; None if they are none.
    """
    import numpy as np

    logits = logits.astype(np.float64)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    predicted = logits.argmax(axis=1)
    probability = (odds / odds.sum(axis=1, keepdims=True))[np.arange(len(labels)), predicted]
    matrix = np.zeros((len(classes), len(classes)), int)
    np.add.at(matrix, (labels, predicted), 1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-probability[wrong], kind="stable")][:MAX_MISTAKES]
    pictures = images(worst)
    mistakes = tuple(
        Mistake(
            int(labels[sample]),
            int(predicted[sample]),
            float(probability[sample]),
            "" if pictures is None else base64.b64encode(_png(pictures[place])).decode(),
        )
        for place, sample in enumerate(worst)
    )
    return Predictions(classes, tuple(tuple(map(int, row)) for row in matrix), mistakes)


def _png(pixels: Array) -> bytes:
    """Return a grey image `[height, width]` of uint8 as a PNG."""
    from PIL import Image

    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()
