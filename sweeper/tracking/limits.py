"""Brings names and values within what MLflow accepts, and remembers what had to be changed."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from posixpath import normpath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.entities import Metric

    from sweeper.core.trials import Report

KEY, PARAM, TAG, BATCH = 250, 6000, 8000, 1000
"""The longest name, the longest value of a parameter and of a tag, and the most metrics in one batch."""

_FORBIDDEN = re.compile(r"[^/\w.\- :]")


def fit_key(key: str) -> str:
    """A name MLflow takes for a parameter or a metric; a changed one ends in a checksum, so that none meet."""
    clean = normpath(_FORBIDDEN.sub("_", key)) if key else "_"
    if clean.startswith((".", "/")):
        clean = "_" + clean.lstrip("./")
    return key if clean == key and len(key) <= KEY else f"{clean[: KEY - 9]}-{zlib.crc32(key.encode()):08x}"


def fit_params(params: Mapping[str, Any]) -> dict[str, str]:
    return {fit_key(key): fit_text(value)[:PARAM] for key, value in params.items()}


def fit_tags(tags: Mapping[str, Any]) -> dict[str, str]:
    return {key: fit_text(value)[:TAG] for key, value in tags.items()}


def fit_text(value: object) -> str:
    """Text that a database can hold: an error of a trial may have anything in it, also halves of characters."""
    return str(value).encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def changed(params: Mapping[str, Any], metrics: Iterable[str] = ()) -> str:
    """The names of what does not arrive as it is, for the tag `sweeper.truncated`."""
    names = [name for name, value in params.items() if fit_key(name) != name or len(str(value)) > PARAM]
    names += [name for name in metrics if fit_key(name) != name]
    return ", ".join(name[:60] for name in names)


def batches(reports: Iterable[Report]) -> Iterator[list[Metric]]:
    """The metrics of reports in batches MLflow takes; a report is never divided, so that a step is there or not."""
    from mlflow.entities import Metric

    batch: list[Metric] = []
    for report in reports:
        when = int(report.time * 1000)
        metrics = [Metric(fit_key(name), value, when, report.step) for name, value in report.metrics.items()][:BATCH]
        if len(batch) + len(metrics) > BATCH:
            yield batch
            batch = []
        batch += metrics
    if batch:
        yield batch
