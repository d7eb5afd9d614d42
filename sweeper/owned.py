"""Optuna's storage as the one owner of a study sees it: what nobody else changes need not be read again."""

from __future__ import annotations

import copy
from collections.abc import Container, Sequence
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.trial import FrozenTrial, TrialState


class OwnedStorage(_CachedStorage):
    """Writes to the database and reads from memory.

    Optuna's own cache holds finished trials only: each judgement of a running one, and each proposal, asks the database
    for all that may have changed. The owner of a study (see `Lease`) is the only one to change it.

    As in Optuna's storage in memory, a trial that changes is replaced: whoever was given the old one keeps it.
    """

    def __init__(self, backend: RDBStorage, study_id: int) -> None:
        super().__init__(backend)
        self._study_id = study_id
        self._trials = super().get_all_trials(study_id, deepcopy=False)
        self._waiting = self._trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        trial_id = super().create_new_trial(study_id, template_trial)
        self._trials.append(self._studies[study_id].trials.pop(len(self._trials)))
        return trial_id

    def get_trial(self, trial_id: int) -> FrozenTrial:
        trial = copy.copy(self._trials[self._trial_id_to_study_id_and_number[trial_id][1]])
        for name in ("params", "distributions", "user_attrs", "intermediate_values"):
            setattr(trial, name, dict(getattr(trial, name)))  # an `optuna.Trial` writes into the one it is given
        return trial

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if states == (TrialState.WAITING,):  # asked before each new trial; once there are none, there will be none
            self._waiting = [self._trials[trial.number] for trial in self._waiting]
            self._waiting = trials = [trial for trial in self._waiting if trial.state == TrialState.WAITING]
        elif states is None:
            trials = list(self._trials)
        else:
            trials = [trial for trial in self._trials if trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
        trial = self._replace(trial_id)
        trial.params = {**trial.params, param_name: distribution.to_external_repr(param_value_internal)}
        trial.distributions = {**trial.distributions, param_name: distribution}

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        if not super().set_trial_state_values(trial_id, state, values):
            return False
        trial = self._replace(trial_id)
        trial.state = state
        if values is not None:
            trial.values = list(values)
        if state == TrialState.RUNNING:
            trial.datetime_start = datetime.now()
        if state.is_finished():
            trial.datetime_complete = datetime.now()
        return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)
        trial = self._replace(trial_id)
        trial.intermediate_values = {**trial.intermediate_values, step: intermediate_value}

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        super().set_trial_user_attr(trial_id, key, value)
        trial = self._replace(trial_id)
        trial.user_attrs = {**trial.user_attrs, key: value}

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        super().set_trial_system_attr(trial_id, key, value)
        trial = self._replace(trial_id)
        trial.system_attrs = {**trial.system_attrs, key: value}

    def _replace(self, trial_id: int) -> FrozenTrial:
        """A copy of a trial in the place of the trial, to be changed."""
        number = self._trial_id_to_study_id_and_number[trial_id][1]
        self._trials[number] = trial = copy.copy(self._trials[number])
        return trial
