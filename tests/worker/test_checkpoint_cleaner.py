from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.core.sweep_folder import SweepFolder
from sweeper.core.trials import Direction, FreshRun, GoalValue, TrialRecord
from sweeper.worker.checkpoints import CheckpointCleaner, CheckpointStore


class Trials:
    """Trials that have a checkpoint each and end in any order."""

    def __init__(self, folder: Path, direction: Direction, kept: int = 1) -> None:
        self.folder = SweepFolder(folder)
        (folder / "trials").mkdir()
        self.cleaner = CheckpointCleaner(self.store, direction, kept=kept)

    def store(self, number: int) -> CheckpointStore:
        return CheckpointStore(self.folder.trial(number))

    def end(
        self,
        number: int,
        value: float | None,
        state: str = "COMPLETE",
        confirms: FreshRun | None = None,
        size: float | None = None,
    ) -> None:
        self.store(number).save(3, {"score": 1.0}, lambda folder: (folder / "weights").touch())
        others = () if size is None else (GoalValue("size", size, "minimize"),)
        ended = TrialRecord(number, state, {}, value=value, step=3, confirms=confirms, others=others)
        self.cleaner.on_trial(TrialRecord(number, "RUNNING", {}), None)
        self.cleaner.on_trial(ended, None)

    def left(self) -> list[int]:
        return [number for number in range(9) if self.store(number).latest() is not None]


def test_lowest_number_of_equal_trials_keeps_its_checkpoint(tmp_path: Path) -> None:
    trials = Trials(tmp_path, "maximize")
    trials.end(5, 0.5)
    trials.end(3, 0.5)
    trials.end(4, 0.5)
    assert trials.left() == [3]


@pytest.mark.parametrize(("direction", "best"), [("maximize", 1), ("minimize", 0)])
def test_only_the_best_complete_trial_keeps_its_checkpoint(tmp_path: Path, direction: Direction, best: int) -> None:
    trials = Trials(tmp_path, direction)
    for number, value in enumerate([0.1, 0.9, 0.4]):
        trials.end(number, value)
    trials.end(3, 2.0, "PRUNED")
    trials.end(4, None, "FAIL")
    assert trials.left() == [best]


def test_all_trials_on_the_front_of_several_goals_keep_their_checkpoints(tmp_path: Path) -> None:
    trials = Trials(tmp_path, "maximize")
    for number, (value, size) in enumerate([(0.5, 9), (0.4, 5), (0.9, 20), (0.3, 7), (0.2, 1)]):
        trials.end(number, value, size=size)
    trials.end(5, None, "FAIL")
    trials.end(6, 0.8, "PRUNED", size=1)
    assert trials.left() == [0, 1, 2, 4]
    trials.end(7, 0.6, size=4)  # betters trials 0 and 1
    assert trials.left() == [2, 4, 7]


def test_trials_that_are_confirmed_later_keep_their_checkpoints(tmp_path: Path) -> None:
    trials = Trials(tmp_path, "maximize", kept=2)
    for number, value in enumerate([0.1, 0.9, 0.4]):
        trials.end(number, value)
    assert trials.left() == [1, 2]
    for number, fresh in enumerate([FreshRun(1, 1, 7), FreshRun(2, 1, 8), FreshRun(1, 2, 9)], 3):
        trials.end(number, 2.0, confirms=fresh)
    assert trials.left() == [1, 2, 3, 4], "the first fresh run of each may have to stand in for its trial"
