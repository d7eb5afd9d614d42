"""The search of a real sweep over the rows of a table."""

from __future__ import annotations

from copy import copy
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FixedTrial

from benchmarks.replay.candidates import Candidates
from benchmarks.replay.table import Table
from sweeper.analysis.forecast.played import PlayedStudy
from sweeper.search.optuna_internals import trial_id
from sweeper.search.seeding import SeededByTrial
from sweeper.search.space import suggest
from sweeper.spec import Sweep


class StudySearch(PlayedStudy):
    """The search of a real sweep, of which each proposal is replaced by a row of the table."""

    def __init__(self, table: Table, sweep: Sweep, order: list[int]) -> None:
        super().__init__(sweep)
        self._table = table
        self._candidates = Candidates(table, sweep.space, order)
        assert isinstance(self.study.sampler, SeededByTrial)
        self.use(self.study.sampler)
        self._places: list[int] = []

    def use(self, sampler: SeededByTrial) -> None:
        """Let another sampler propose."""
        self.study.sampler = self._sampler = self._candidates.offer_to(sampler)

    def next(self) -> tuple[int, int] | None:
        task = super().next()
        return None if task is None else (self._places[task[0]], task[1])

    def report(self, place: int, step: int, value: float) -> bool:
        return super().report(self._places.index(place), step, value)

    def fail(self, place: int) -> None:
        super().fail(self._places.index(place))

    def _choose_params(self, trial: optuna.Trial) -> None:
        """Record the parameters of the row that is trained instead of the proposed ones."""
        proposal = suggest(trial, self.sweep.space)
        is_random = isinstance(self._sampler.sampler, RandomSampler) or self._sampler.has_no_model
        place = self._candidates.take(proposal, is_random=is_random)
        self._places.append(place)
        self._put_params(trial, self._table.rows[place].params)

    def _put_params(self, trial: optuna.Trial, params: dict[str, Any]) -> None:
        drawn = FixedTrial(params)
        suggest(drawn, self.sweep.space)
        frozen = copy(self._storage._get_trial(trial_id(trial)))
        frozen.params, frozen.distributions = drawn.params, drawn.distributions
        self._storage._set_trial(trial_id(trial), frozen)
