"""What a person means by NAME, NAME:TRIAL, or nothing: a sweep of a database, one of its trials, the newest sweep."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.core.errors import InputError, SweeperError
from sweeper.core.text import format_list, format_value
from sweeper.study.open import list_sweeps

if TYPE_CHECKING:
    from sweeper.core.trials import TrialRecord
    from sweeper.study.view import StudyView


def parse_target(name: str, trials: Sequence[str] = ()) -> tuple[str, list[int]]:
    """Return the name of a sweep and the numbers of trials; `NAME TRIAL` and `NAME:TRIAL` mean the same.

    Raises:
        InputError: the number of a trial is not a number.
    """
    sweep, colon, joined = name.partition(":")
    numbers = [*([joined] if colon else []), *trials]
    for text in numbers:
        if not (text.isascii() and text.isdecimal()):
            raise InputError(
                f"{format_value(text)} is not the number of a trial. Name the first trial of sweep {sweep!r} as "
                f"`{sweep} 0` or as `{sweep}:0`"
            )
    return sweep, [int(text) for text in numbers]


def trial_named(study: StudyView, number: int) -> TrialRecord:
    """Return a trial by its number.

    Raises:
        InputError: the sweep has no such trial.
    """
    try:
        return study.row(number)
    except KeyError:
        numbers = [str(row.number) for row in study.rows()]
        known = f"its trials are {format_list(numbers)}" if numbers else "none of its trials has started"
        raise InputError(f"sweep {study.name!r} has no trial {number}; {known}") from None


def newest_sweep(storage: str) -> str:
    """Return the name of the sweep of a database that started last.

    Raises:
        InputError: there is no sweep, or no such database.
        StorageError: the database cannot be read.
    """
    if summaries := list_sweeps(storage):
        return summaries[0].name
    raise InputError("the database holds no sweep yet. Start one with: sweeper run FILE")


def commands_meant(text: str, storage: str) -> list[str]:
    """Return the commands that somebody may have meant who ran a file that does not exist, such as `sweeper run lstm`.

    Args:
        storage: the database in which a sweep of that name may be.
    """
    files = {path.stem: path for folder in ("*", ".") for path in sorted(Path().glob(f"{folder}/*.y*ml"))}
    try:
        sweeps = [summary.name for summary in list_sweeps(storage)]
    except SweeperError:  # most often there is none
        sweeps = []
    file, sweep = _nearest(text, list(files)), _nearest(text, sweeps)
    commands = [f"sweeper run {shlex.quote(str(files[file]))}"] if file else []
    return commands + ([f"sweeper resume {sweep}"] if sweep else [])


def _nearest(text: str, known: Sequence[str]) -> str | None:
    return text if text in known else next(iter(difflib.get_close_matches(text, known, n=1)), None)
