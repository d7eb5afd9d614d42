"""The metrics of a report: numbers by name, checked before they are sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sweeper.core.secrets import has_secret, redact

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
