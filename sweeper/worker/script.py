"""`sweeper.report`, which a script calls that is run by a command. Imports nothing that takes long."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from typing import Any

SOCKET_VARIABLE = "SWEEPER_SOCKET"
"""Environment variable of a script with the path of the socket that takes its reports."""


def report(metrics: Mapping[str, Any] | None = None, /, **named: Any) -> bool:
    """Send one report of a script, and wait until the study has recorded and judged it.

    It may be called from any thread of the script, and from any process that the script starts. Without a sweep, it
    prints the metrics and returns True, so that the script can be run by itself.

    Args:
        metrics: numbers by name, for names that are no names in Python.
        named: numbers by name; the objective's metric must be among all of them.

    Returns:
        True to continue. False when the trial ends: it was pruned, its budget is used up, or the sweep stops. Leave the
        training loop then; a trial that was pruned or stopped is ended a few seconds later in any case.

    Raises:
        TypeError: a metric is not a number.
        ValueError: the report was refused; the message says why.

    Example:
        >>> import sweeper
        >>> for epoch in range(2):
        ...     if not sweeper.report(val_accuracy=0.5 + epoch / 10, loss=0.25):
        ...         break
        val_accuracy=0.5 loss=0.25
        val_accuracy=0.6 loss=0.25
    """
    numbers = {str(name): _as_number(str(name), value) for name, value in {**(metrics or {}), **named}.items()}
    path = os.environ.get(SOCKET_VARIABLE)
    if not path:
        print(" ".join(f"{name}={value:g}" for name, value in numbers.items()), flush=True)
        return True
    try:
        with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rwb") as stream:
            connection.connect(path)
            stream.write(json.dumps(numbers).encode() + b"\n")
            stream.flush()
            answer = json.loads(stream.readline())
    except (OSError, ValueError):  # the worker is gone, and this process will be ended too
        return False
    if "refused" in answer:
        raise ValueError(answer["refused"])
    return bool(answer["continue"])


def _as_number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"metric {name!r} is not a number: {value!r:.60} ({type(value).__name__})") from error
