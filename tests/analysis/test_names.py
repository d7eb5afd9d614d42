from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.analysis.names import commands_meant, newest_sweep, parse_target, trial_named
from sweeper.core.errors import InputError
from sweeper.study.open import open_study, read_study

MakeSweep = Callable[..., Any]


@pytest.mark.parametrize(
    ("name", "trials", "target"),
    [
        ("lstm", [], ("lstm", [])),
        ("lstm", ["3"], ("lstm", [3])),
        ("lstm:3", [], ("lstm", [3])),
        ("lstm", ["3", "14"], ("lstm", [3, 14])),
    ],
)
def test_a_trial_is_named_with_a_blank_or_a_colon(name: str, trials: list[str], target: tuple[str, list[int]]) -> None:
    assert parse_target(name, trials) == target


@pytest.mark.parametrize(("name", "trials"), [("lstm:", []), ("lstm:x", []), ("lstm", ["-1"]), ("lstm", ["٣"])])
def test_a_trial_that_is_no_number_is_refused(name: str, trials: list[str]) -> None:
    with pytest.raises(InputError, match="is not the number of a trial. Name the first trial of sweep 'lstm' as"):
        parse_target(name, trials)


def test_unknown_trial_is_refused_with_those_that_there_are(make_sweep: MakeSweep) -> None:
    sweep = make_sweep()
    with open_study(sweep) as study:
        with pytest.raises(InputError, match="has no trial 0; none of its trials has started"):
            trial_named(read_study(sweep.name, sweep.storage), 0)
        study.ask()
    seen = read_study(sweep.name, sweep.storage)
    assert trial_named(seen, 0).number == 0
    with pytest.raises(InputError, match="sweep 'climbing' has no trial 7; its trials are 0"):
        trial_named(seen, 7)


def test_newest_sweep_is_the_one_that_started_last(make_sweep: MakeSweep) -> None:
    storage = make_sweep().storage
    with pytest.raises(InputError):
        newest_sweep(storage)
    for name in ("zebra", "ape"):
        with open_study(make_sweep(name=name)) as study:
            study.ask()
        time.sleep(0.01)
    assert newest_sweep(storage) == "ape"


def test_commands_that_a_missing_file_may_mean_are_found(make_sweep: MakeSweep) -> None:
    storage = make_sweep().storage
    assert commands_meant("climbing", storage) == []
    Path("spaces").mkdir()
    Path("spaces/climbing.yaml").touch()
    assert commands_meant("climbing", storage) == ["sweeper run spaces/climbing.yaml"]
    Path("climbing.yaml").touch()
    with open_study(make_sweep()):
        pass
    assert commands_meant("climbin", storage) == ["sweeper run climbing.yaml", "sweeper resume climbing"]
