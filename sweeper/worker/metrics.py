"""The metrics of a report or an evaluation: numbers by name, checked before they are sent; two models compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sweeper.core.confirmation import McNemar
from sweeper.core.secrets import has_secret, redact
from sweeper.core.text import first_line

MAX_METRICS, MAX_METRIC_NAME_CHARS = 1000, 250
"""Metrics of one report, and characters of a name: the most that MLflow accepts in one call."""


def numbers_of(metrics: Mapping[str, Any] | None, named: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of a report, given as a dict, as keywords or as both, as numbers.

    Raises:
        TypeError: `metrics` is no mapping, or a metric is not a number.
        ValueError: there are too many, or a name is too long.
    """
    if not isinstance(metrics, Mapping) and (metrics is not None or not named):
        shown = redact(metrics)[:60]
        raise TypeError(f"report takes a dict of numbers by name, not {type(metrics).__name__}: {shown}")
    found = {**(metrics or {}), **named}
    if len(found) > MAX_METRICS:
        raise ValueError(f"a report has {len(found)} metrics; {MAX_METRICS} at most")
    longest = max(map(str, found), key=len, default="")
    if len(longest) > MAX_METRIC_NAME_CHARS:
        start = redact(longest)[:20]
        raise ValueError(
            f"a metric's name has {len(longest)} characters ({start!r}...); {MAX_METRIC_NAME_CHARS} at most"
        )
    return {name: _as_number(name, value) for name, value in found.items()}


def evaluation_of(metrics: Any) -> dict[str, float]:
    """Return what a trainable's `evaluate` has returned, as numbers by name.

    Raises:
        TypeError: it is no mapping, or a metric is not a number.
        ValueError: a name holds a secret.
    """
    if not isinstance(metrics, Mapping):
        raise TypeError(f"evaluate returns a dict of numbers by name, not {type(metrics).__name__}")
    check_metric_names(metrics)
    return {str(name): float(value) for name, value in metrics.items()}


def compare(predictions: Iterable[tuple[Any, Any]]) -> McNemar:
    """Compare the classes that two models predict for the same samples.

    What fails is said in the result: it must not lose the test of the best model.

    Args:
        predictions: makes the predictions of each model, and returns them with the labels.
    """
    import numpy as np

    right = []
    try:
        for predicted, labels in predictions:
            if np.shape(predicted) != labels.shape:
                found = np.shape(predicted)
                raise ValueError(
                    f"predict returned an array {found}, and not a class for each of {len(labels)} samples"
                )
            right.append(np.asarray(predicted) == labels)
    except Exception as error:
        return McNemar("", missing=f"{type(error).__name__}: {first_line(error)}"[:200])
    one, other = right
    return McNemar("", len(one), n10=int((one & ~other).sum()), n01=int((other & ~one).sum()))


def check_metric_names(names: Iterable[str]) -> None:
    """Raise ValueError if the name of a metric holds a secret: names are stored, and shown by every tool."""
    for name in names:
        if has_secret(str(name)):
            raise ValueError(f"the name of a metric holds a secret: {redact(name)[:60]!r}; use another name")


def _as_number(name: str, value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError as error:
        raise OverflowError(f"metric {name!r} is too large for a floating-point number") from error
    except (TypeError, ValueError) as error:
        shown = redact(repr(value))[:60]
        raise TypeError(f"metric {name!r} is not a number: {shown} ({type(value).__name__})") from error
