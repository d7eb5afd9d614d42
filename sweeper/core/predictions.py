"""What a classifier predicted for the test set, as its worker saves it and the report shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mistake:
    """A sample of the test set that a classifier got wrong.

    Attributes:
        label, predicted: its class and the predicted one, as places in `Predictions.classes`.
        probability: the probability that the model gave to the predicted class.
        picture: the sample as a PNG in base64; empty if it is no image.
    """

    label: int
    predicted: int
    probability: float
    picture: str = ""


@dataclass(frozen=True)
class Predictions:
    """What a classifier predicted for the test set.

    Attributes:
        classes: names of the classes.
        matrix: number of samples by their class (rows) and the predicted one (columns).
        mistakes: the wrong predictions with the highest probabilities, the worst first.
    """

    classes: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]
    mistakes: tuple[Mistake, ...] = ()
