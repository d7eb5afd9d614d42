"""What a sweep's results depend on beside its file: the code of its trainable, and the versions of what runs it."""

from __future__ import annotations

from typing import Any

from sweeper.core.environment import versions
from sweeper.core.errors import InputError
from sweeper.core.user_code import find_trainable
from sweeper.spec import Sweep
from sweeper.study import SweepStudy

_PACKAGES = ("sweeper", "keras", "tensorflow", "numpy", "optuna", "ray")


def surroundings(study: SweepStudy, *, allow_code_change: bool) -> dict[str, Any]:
    """The facts about them, for the study to keep; it says what is not as it was when its trials ran.

    Raises:
        InputError: the trainable is another one by now, and nobody said that it may be.
    """
    code, now = _code(study.sweep), versions(_PACKAGES)
    if any(row.step for row in study.rows()):
        before = {**now, **study.facts.get("versions", {})}
        changes = [f"{name} {number} (was {before[name]})" for name, number in now.items() if number != before[name]]
        if code != study.facts.get("code", code):
            if not allow_code_change:
                raise InputError(_refusal(study.sweep))
            changes.append(f"another code of {study.sweep.trainable}")
        if changes:
            study.announce(f"going on with {', '.join(changes)}")
    return {"code": code, "versions": now}


def _code(sweep: Sweep) -> str:
    """What tells the code of a trainable from another; that of sweeper's own goes with its version."""
    info = find_trainable(sweep.trainable)
    return "sweeper" if info.module.partition(".")[0] == "sweeper" else info.digest


def _refusal(sweep: Sweep) -> str:
    return (
        f"the code of {sweep.trainable} has changed since sweep {sweep.name!r} began: trials of both may not compare. "
        "If they do, go on with --allow-code-change; if not, begin another sweep: --name NEW, or --fork NEW"
    )
