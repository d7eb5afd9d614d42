"""Looking at each trial of a study once it has ended, and never again: what ended does not change."""

from __future__ import annotations

from optuna.study import Study
from optuna.trial import FrozenTrial


class EndedTrials:
    """What a sampler or a pruner has seen of a study, so that it need not go through all trials each time."""

    def __init__(self) -> None:
        self._open: list[int] = []
        self._seen = 0

    def look_at(self, study: Study) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        """The trials that have ended since the last look, and those that have not ended, each by number."""
        trials = study._get_trials(deepcopy=False)
        unsettled = [trials[number] for number in (*self._open, *range(self._seen, len(trials)))]
        going_on = [trial for trial in unsettled if not trial.state.is_finished()]
        self._open, self._seen = [trial.number for trial in going_on], len(trials)
        return [trial for trial in unsettled if trial.state.is_finished()], going_on
