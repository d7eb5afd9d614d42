"""A study in memory that decides as `SweepStudy` does: the same sampler, pruner, verdicts, and paused trials."""

from __future__ import annotations

from copy import copy
from typing import Any, Protocol

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from optuna.trial import FixedTrial, TrialState

from benchmarks.replay.candidates import Candidates
from benchmarks.replay.table import Table
from sweeper.core.trials import Decision
from sweeper.search.optuna_internals import trial_id
from sweeper.search.pruning.decisions import judge_report
from sweeper.search.pruning.promotion import PAUSED, note_end, note_revived, revival
from sweeper.search.pruning.pruners import Promotion
from sweeper.search.space import suggest
from sweeper.spec import Sweep


class Search(Protocol):
    """What the replay asks of a way to search."""

    def next(self) -> tuple[int, int] | None:
        """Return the row to train now, and the number of its reports so far; None if there is none at this moment."""

    def report(self, place: int, step: int, value: float) -> bool:
        """Take a report of a row; return whether it goes on."""

    def fail(self, place: int) -> None:
        """Take note that the training of a row has diverged."""


class StudySearch:
    """The search of a real sweep, of which each proposal is replaced by a row of the table.

    Attributes:
        study: what a real sweep would have in its database.
        decisions: what the pruner compared, by the numbers of the trials.
    """

    def __init__(self, table: Table, sweep: Sweep, order: list[int]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._table, self._sweep = table, sweep
        self._candidates = Candidates(table, sweep.space, order)
        sampler = sweep.chosen_sampler.build(sweep.space, seed=sweep.seed, trials=sweep.budget.trials)
        self._sampler = self._candidates.offer_to(sampler)
        self._storage = InMemoryStorage()
        self.study = optuna.create_study(
            study_name=sweep.name,  # Hyperband draws brackets by it
            storage=self._storage,
            direction=sweep.objective.direction,
            sampler=self._sampler,
            pruner=sweep.chosen_pruner.build(sweep.budget),
        )
        self.decisions: dict[int, list[Decision]] = {}
        self._trials: dict[int, optuna.Trial] = {}
        self._places: list[int] = []

    def next(self) -> tuple[int, int] | None:
        is_last_round = len(self._places) == len(self._table.rows)
        if (number := revival(self.study, is_last_round=is_last_round)) is not None:
            return self._revived(number)
        if is_last_round:
            return None
        trial = self.study.ask()
        proposal = suggest(trial, self._sweep.space)
        is_random = isinstance(self._sampler.sampler, RandomSampler) or self._sampler.has_no_model
        place = self._candidates.take(proposal, is_random=is_random)
        self._put_params(trial, self._table.rows[place].params)
        self._places.append(place)
        self._trials[place] = trial
        return place, 0

    def report(self, place: int, step: int, value: float) -> bool:
        trial = self._trials[place]
        trial.report(value, step)
        if step == self._table.reports:
            self.study.tell(trial, value)
            return False
        is_pruned, decision = judge_report(trial, step, self._sweep.chosen_pruner, self._sweep.budget)
        if decision is not None:
            self.decisions.setdefault(trial.number, []).append(decision)
        if is_pruned:
            if isinstance(self._sweep.chosen_pruner, Promotion):
                trial.set_user_attr(PAUSED, True)
            self.study.tell(trial, state=TrialState.PRUNED)
            note_end(self.study, trial.number)
        return not is_pruned

    def fail(self, place: int) -> None:
        self.study.tell(self._trials[place], state=TrialState.FAIL)

    def _revived(self, number: int) -> tuple[int, int]:
        place = self._places[number]
        identity = trial_id(self._trials[place])
        frozen = copy(self._storage._get_trial(identity))
        frozen.state, frozen.datetime_complete, frozen.values = TrialState.RUNNING, None, None
        frozen.user_attrs = {key: value for key, value in frozen.user_attrs.items() if key != PAUSED}
        self._storage._set_trial(identity, frozen)
        note_revived(self.study, number)
        self._trials[place] = optuna.Trial(self.study, identity)
        return place, max(frozen.intermediate_values)

    def _put_params(self, trial: optuna.Trial, params: dict[str, Any]) -> None:
        """Record the parameters of the row that is trained instead of the proposed ones."""
        drawn = FixedTrial(params)
        suggest(drawn, self._sweep.space)
        frozen = copy(self._storage._get_trial(trial_id(trial)))
        frozen.params, frozen.distributions = drawn.params, drawn.distributions
        self._storage._set_trial(trial_id(trial), frozen)
