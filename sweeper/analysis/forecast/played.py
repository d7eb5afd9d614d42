"""A study in memory that decides as `SweepStudy` does: the same sampler, pruner, verdicts, and paused trials."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import optuna
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from sweeper.core.trials import Decision
from sweeper.search.optuna_internals import GoalStudy, report_value, trial_id
from sweeper.search.pruning.decisions import judge_report
from sweeper.search.pruning.promotion import PAUSED, note_end, note_revived, revival
from sweeper.search.pruning.pruners import Promotion
from sweeper.search.space import suggest
from sweeper.spec import Sweep


class PlayedStudy:
    """The search of a real sweep, whose trials nobody trains.

    Attributes:
        study: what a real sweep would have in its database.
        decisions: what the pruner compared, by the numbers of the trials.
    """

    def __init__(self, sweep: Sweep) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.sweep = sweep
        self._pruner, self._limit = sweep.chosen_pruner, sweep.trial_limit
        self._storage, directions = InMemoryStorage(), [goal.direction for goal in sweep.goals]
        # Hyperband draws brackets by the name.
        optuna.create_study(study_name=sweep.name, storage=self._storage, directions=directions)
        self.study = GoalStudy(
            sweep.name,
            self._storage,
            sampler=sweep.chosen_sampler.build(sweep.space, seed=sweep.sampler_seed, trials=sweep.budget.trials),
            pruner=self._pruner.build(sweep.budget),
        )
        self.decisions: dict[int, list[Decision]] = {}
        self._trials: dict[int, optuna.Trial] = {}

    def next(self) -> tuple[int, int] | None:
        """Return the number of the trial to train now, and that of its reports so far; None if there is none now."""
        is_last_round = self._begins_no_more()
        number = revival(self.study, is_last_round=is_last_round)
        if number is not None and self._admits(number):
            return self._revived(number)
        if is_last_round:
            return None
        trial = self.study.ask()
        self._trials[trial.number] = trial
        self._choose_params(trial)
        return trial.number, 0

    def report(self, number: int, step: int, value: float) -> bool:
        """Take a report of a trial; return whether it goes on."""
        trial = self._trials[number]
        report_value(trial, value, step)
        if step == self.sweep.budget.reports:
            self.study.tell(trial, [value, *self._other_goals(number)])
            return False
        is_pruned, decision = judge_report(trial, step, self._pruner, self.sweep.budget)
        if decision is not None:
            self.decisions.setdefault(number, []).append(decision)
        if is_pruned:
            if isinstance(self._pruner, Promotion):
                trial.set_user_attr(PAUSED, True)
            self.study.tell(trial, state=TrialState.PRUNED)
            note_end(self.study, number)
        return not is_pruned

    def fail(self, number: int) -> None:
        """Take note that the training of a trial has diverged."""
        self.study.tell(self._trials[number], state=TrialState.FAIL)

    def _choose_params(self, trial: optuna.Trial) -> None:
        """Choose the parameters of a trial that begins: those that the sampler proposes."""
        suggest(trial, self.sweep.space)

    def _other_goals(self, number: int) -> Sequence[float]:
        """Return the values of the goals beside the objective, of a trial that has made all reports."""
        return ()

    def _begins_no_more(self) -> bool:
        """Return whether no new trial begins any more."""
        return len(self._trials) >= self._limit

    def _admits(self, number: int) -> bool:
        """Return whether a paused trial may go on."""
        return True

    def _revived(self, number: int) -> tuple[int, int]:
        identity = trial_id(self._trials[number])
        frozen = copy(self._storage._get_trial(identity))
        frozen.state, frozen.datetime_complete, frozen.values = TrialState.RUNNING, None, None
        frozen.user_attrs = {key: value for key, value in frozen.user_attrs.items() if key != PAUSED}
        self._storage._set_trial(identity, frozen)
        note_revived(self.study, number)
        self._trials[number] = optuna.Trial(self.study, identity)
        return number, max(frozen.intermediate_values)
