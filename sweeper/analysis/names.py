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


def parse_targets(texts: Sequence[str], limit: int) -> list[tuple[str, int | None]]:
    """Return what is to be compared: the name of a sweep each, with the number of a trial, or None for the whole sweep.

    `NAME TRIAL TRIAL` means these trials of one sweep.

    Raises:
        InputError: these are fewer than two, more than `limit`, or trials and whole sweeps together.
    """
    first, others = texts[0], texts[1:]
    if ":" not in first and others and all(text.isdecimal() for text in others) and not first.isdecimal():
        texts = [f"{first}:{number}" for number in others]
    if len(texts) < 2:
        raise InputError("name at least two trials, as in `sweeper compare lstm:3 lstm:7`, or two sweeps")
    if len(texts) > limit:
        raise InputError(f"{len(texts)} are too many to compare in one table; name at most {limit}")
    if repeated := [text for index, text in enumerate(texts) if text in texts[:index]]:
        raise InputError(f"{repeated[0]} is named twice; name different trials or sweeps")
    found = [parse_target(text) for text in texts]
    trial = next((text for text, (_, numbers) in zip(texts, found, strict=True) if numbers), None)
    whole = next((name for name, numbers in found if not numbers), None)
    if trial is not None and whole is not None:
        raise InputError(
            f"{trial} is a trial and {whole} a whole sweep. Name trials only, as in {trial} {whole}:NUMBER, or sweeps "
            "only"
        )
    return [(name, numbers[0] if numbers else None) for name, numbers in found]


def trial_named(study: StudyView, number: int) -> TrialRecord:
    """Return a trial by its number.

    Raises:
        InputError: the sweep has no such trial.
    """
    try:
        return study.row(number)
    except KeyError:
        raise InputError(_unknown_trial(study, number)) from None


def _unknown_trial(study: StudyView, number: int) -> str:
    """Say that a sweep has no such trial, which ones it has, and which of them is the nearest."""
    numbers, unknown = [row.number for row in study.rows()], f"sweep {study.name!r} has no trial {number}"
    if not numbers:
        return f"{unknown}; none of its trials has started"
    has_gaps = numbers != list(range(len(numbers)))
    known = format_list([str(one) for one in numbers]) if has_gaps or len(numbers) == 1 else f"0 to {numbers[-1]}"
    if numbers[-1] < number < study.trial_limit:
        return f"trial {number} of sweep {study.name!r} has not started yet; those that have are {known}"
    return f"{unknown}; its trials are {known}; the nearest is {min(numbers, key=lambda one: abs(one - number))}"


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
