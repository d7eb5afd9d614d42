"""What of a sweep may change when it is taken up again, and what may not: its trials would not compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sweeper.core.errors import InputError
from sweeper.spec import Sweep

_MAY_CHANGE = ("budget", "resources", "tracking", "storage", "description")
_MAY_NOT_CHANGE = ("budget.epochs", "budget.steps", "budget.reports_per_epoch", "budget.report_every")
_MOST = 20
"""Changes that a message lists."""


def check_changes(before: Sweep, now: Sweep) -> list[str]:
    """The changes of a sweep that is taken up again, a line each.

    Raises:
        InputError: something changed that may not; with every such key, what it was and what it is.
    """
    changed = {key: line for key, line in _differences(_plain(before), _plain(now))}
    refused = [line for key, line in changed.items() if not _may_change(key)]
    if refused:
        more = [f"and {len(refused) - _MOST} more"] if len(refused) > _MOST else []
        lines = "\n".join(f"  {line}" for line in refused[:_MOST] + more)
        raise InputError(
            f"sweep {now.name!r} exists, and its trials would not compare with others after these changes:\n{lines}\n"
            f"Undo them, or begin another sweep: --name NEW, or --fork NEW to try the best points of this one first"
        )
    return list(changed.values())


def _plain(sweep: Sweep) -> dict[str, Any]:
    return sweep.model_dump(mode="json")


def _may_change(key: str) -> bool:
    return key.split(".")[0] in _MAY_CHANGE and not key.startswith(_MAY_NOT_CHANGE)


def _differences(before: Any, now: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every key that is not what it was, and both values in words; addresses may hold passwords and are not shown."""
    if before == now:
        return
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in {**before, **now}:
            yield from _differences(before.get(key), now.get(key), f"{path}.{key}" if path else str(key))
    elif path in ("storage", "tracking.uri"):
        yield path, f"{path} is another"
    else:
        yield path, f"{path}: {_shown(before)} -> {_shown(now)}"


def _shown(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
