"""How many trials a command asks for: a total with `--trials 8`, or more than have started with `--trials +3`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweeper.cli import options
from sweeper.core.errors import InputError

if TYPE_CHECKING:
    from sweeper.spec import Sweep

_KEY = "budget.trials"


@dataclass(frozen=True)
class AskedTrials:
    """The number of trials that a command line asks for.

    Attributes:
        total: the text after `--trials`, if it is a total.
        added: how many more than have started.
        settings: the settings of `--set`, without one that `added` replaces.
        is_given: whether a number is asked for at all.
    """

    total: str | None
    added: int | None
    settings: list[str]
    is_given: bool

    @classmethod
    def of(cls, trials: str | None, settings: list[str] | None) -> AskedTrials:
        """Read `--trials`, or else `--set budget.trials=`.

        Raises:
            InputError: what follows the plus is not a number of trials.
        """
        given = [text for text in settings or () if text.partition("=")[0].strip() == _KEY and "=" in text]
        text = given[-1].partition("=")[2] if trials is None and given else trials
        if text is None or not text.strip().startswith("+"):
            return cls(trials, None, list(settings or ()), text is not None)
        if not re.fullmatch(r"\+[1-9][0-9]{0,5}", text.strip()):
            raise InputError(f"--trials {text}: write +3 for three more trials, or 3 for three in all")
        others = [setting for setting in settings or () if setting not in given]
        return cls(None, int(text.strip()[1:]), others, True)

    def applied_to(self, sweep: Sweep, started: Callable[[], int]) -> Sweep:
        """Return the sweep with the total that was asked for.

        Args:
            started: returns how many trials of the sweep have started.

        Raises:
            InputError: more trials have started than there would be in all.
        """
        if self.added is not None:
            total = str(started() + self.added)
            with options.blame_options({_KEY: total}):
                return sweep.changed({_KEY: total})
        if self.is_given and sweep.budget.trials < (begun := started()):
            asked = sweep.budget.trials
            raise InputError(
                f"--trials {asked}: {begun} trials of sweep {sweep.name!r} have started. For {asked} more: "
                f"--trials +{asked}. To end with those: --trials {begun}"
            )
        return sweep


def started_trials(sweep: Sweep) -> int:
    """Return how many trials of a sweep have started; 0 if it has not begun."""
    from sweeper.study.open import read_study

    try:
        return len(read_study(sweep.name, sweep.storage_url()).rows())
    except InputError:  # no such sweep; what else may be wrong with the database is reported when it is opened
        return 0


def refuse_added(trials: str | None, settings: list[str] | None) -> None:
    """Refuse `--trials +N` where nothing knows how many trials have started.

    Raises:
        InputError: it was given.
    """
    if (added := AskedTrials.of(trials, settings).added) is not None:
        raise InputError(f"--trials +{added}: give a total here; only `sweeper run` and `sweeper resume` add trials")
