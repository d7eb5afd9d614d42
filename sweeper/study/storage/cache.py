"""Optuna's storage with a cache for the owner of a study. Nobody else writes to it, so nothing is read twice."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Container, Mapping, Sequence
from datetime import datetime
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    FloatDistribution,
    check_distribution_compatibility,
    distribution_to_json,
)
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage, _StudyInfo
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import bindparam

from sweeper.search.confirming import CONFIRMS
from sweeper.search.domains import nearest_step
from sweeper.search.history import is_fresh_run, without_result
from sweeper.search.optuna_internals import trial_id as id_of
from sweeper.search.pruning.optuna_internals import is_rung_mark
from sweeper.search.pruning.promotion import PAUSED
from sweeper.study.storage.exchange import UNANSWERED, connection_of, reserve_ids, write_change, write_row
from sweeper.study.storage.reading import read_trials

END_ATTRIBUTES = ("ended", "reason", PAUSED)
"""User attributes of a trial that are written when it ends."""

UNCOUNTED = "uncounted"
"""User attribute of a trial that `sweeper retry` put back: the number of its last attempt before that."""

_Intermediate = models.TrialIntermediateValueModel
_Value = models.TrialValueModel

_TRIALS: Any = models.TrialModel.__table__
_END = _TRIALS.update().where(_TRIALS.c.trial_id == bindparam("ended_id"))
_END = _END.values(state=bindparam("state"), datetime_complete=bindparam("datetime_complete"))


class OwnerCachedStorage(_CachedStorage):
    """Storage that writes to the database and reads from memory.

    Optuna's own cache holds finished trials only. So the pruner for each report, and the sampler for each proposal,
    query the database for all trials that may have changed. Optuna also reads, before each row that it writes, whether
    the trial is unfinished and whether the row exists. The owner of a study (see `Lease`) is the only process that
    changes it, so it knows both, and writes a new row with one INSERT. Rare writes are left to Optuna.

    A trial that changes is replaced by a copy, as in Optuna's storage in memory: who holds the old one sees no change.
    """

    def __init__(self, backend: RDBStorage, study_id: int) -> None:
        super().__init__(backend)
        self._study_id = study_id
        self._reserved: list[int] = []
        self.refresh()

    def refresh(self) -> None:
        """Read the study again from the database: the last write may not have been committed."""
        self._trial_id_to_study_id_and_number.clear()
        self._study_id_and_number_to_trial_id.clear()
        name = self._backend.get_study_name_from_id(self._study_id)
        self._trials = read_trials(name, self._backend.engine, whole=True)
        self._studies[self._study_id] = _StudyInfo()
        self._add_trials_to_cache(self._study_id, self._trials)
        self._waiting = self._trials
        self._hidden = {trial.number: without_result(trial) for trial in self._trials if is_fresh_run(trial)}

    def recorded(self) -> list[FrozenTrial]:
        """Return all trials as they are; `get_all_trials`, which samplers and pruners use, hides fresh runs."""
        return list(self._trials)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        assert template_trial is None, "start points are written before a study has its owner"
        number, now = len(self._trials), datetime.now()
        row = {"study_id": study_id, "number": number, "state": TrialState.RUNNING, "datetime_start": now}
        if not self._reserved:
            with connection_of(self._backend) as connection:
                self._reserved = reserve_ids(connection)
        if self._reserved:  # on other databases, the row gets its id when it is written
            row["trial_id"] = self._reserved.pop(0)
        trial_id: int = self._insert(models.TrialModel, row)
        trial = FrozenTrial(
            number=number,
            state=TrialState.RUNNING,
            value=None,
            datetime_start=now,
            datetime_complete=None,
            params={},
            distributions={},
            user_attrs={},
            system_attrs={},
            intermediate_values={},
            trial_id=trial_id,
        )
        self._add_trials_to_cache(study_id, [trial])
        self._trials.append(self._studies[study_id].trials.pop(number))
        return trial_id

    def get_trial(self, trial_id: int) -> FrozenTrial:
        trial = copy.copy(self._trials[self._number(trial_id)])
        for name in ("params", "distributions", "user_attrs", "intermediate_values"):
            setattr(trial, name, dict(getattr(trial, name)))  # an `optuna.Trial` changes the one it gets
        return trial

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if states == (TrialState.WAITING,):  # asked before each new trial; no trial starts to wait later
            self._waiting = [self._trials[trial.number] for trial in self._waiting]
            self._waiting = trials = [trial for trial in self._waiting if trial.state == TrialState.WAITING]
        else:
            # A copy: Optuna's pruners mark a trial, and then compare it with the trials as they were before.
            trials = self.recorded()
            for number, trial in self._hidden.items():
                trials[number] = trial
            trials = trials if states is None else [trial for trial in trials if trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        if isinstance(distribution, FloatDistribution) and distribution.step is not None:
            # Everybody who reads the study gets the decimal that the sweep uses, and not 0.30000000000000004.
            param_value_internal = nearest_step(
                param_value_internal, distribution.low, distribution.high, distribution.step
            )
        known = self._studies[self._study_id].param_distribution.get(param_name)
        if known is None:
            super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
        else:
            check_distribution_compatibility(known, distribution)
            row = {"trial_id": trial_id, "param_name": param_name, "param_value": param_value_internal}
            self._insert(models.TrialParamModel, {**row, "distribution_json": distribution_to_json(distribution)})
        trial = self._replace(trial_id)
        trial.params = {**trial.params, param_name: distribution.to_external_repr(param_value_internal)}
        # All trials share one object: a distribution is as large as the rest of a trial.
        shared = known if known == distribution else distribution
        trial.distributions = {**trial.distributions, param_name: shared}

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        now = datetime.now()
        if not state.is_finished():
            if not super().set_trial_state_values(trial_id, state, values):
                return False
        else:
            self._require_unfinished(trial_id)
            for objective, value in enumerate(values or ()):
                stored, kind = _Value.value_to_stored_repr(value)
                row = {"trial_id": trial_id, "objective": objective, "value": stored, "value_type": kind}
                self._insert(_Value, row)
            with connection_of(self._backend) as connection:
                write_change(connection, _END, {"ended_id": trial_id, "state": state, "datetime_complete": now})
        trial = self._replace(trial_id)
        trial.state = state
        if values is not None:
            trial.values = list(values)
        if state == TrialState.RUNNING:
            trial.datetime_start = now
        if state.is_finished():
            trial.datetime_complete = now
        return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        if step in self._trials[self._number(trial_id)].intermediate_values:
            super().set_trial_intermediate_value(trial_id, step, intermediate_value)
        else:
            self._require_unfinished(trial_id)
            stored, kind = _Intermediate.intermediate_value_to_stored_repr(intermediate_value)
            row = {"trial_id": trial_id, "step": step, "intermediate_value": stored, "intermediate_value_type": kind}
            self._insert(_Intermediate, row)
        trial = self._replace(trial_id)
        trial.intermediate_values = {**trial.intermediate_values, step: intermediate_value}

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.set_trial_user_attrs(trial_id, {key: value})

    def set_trial_user_attrs(self, trial_id: int, attributes: Mapping[str, Any]) -> None:
        """Write user attributes of a trial, all new ones with one INSERT."""
        known = self._trials[self._number(trial_id)].user_attrs
        for key in attributes.keys() & known.keys():
            super().set_trial_user_attr(trial_id, key, attributes[key])
        if new := {key: value for key, value in attributes.items() if key not in known}:
            self._require_unfinished(trial_id)
            rows = ({"trial_id": trial_id, "key": key, "value_json": json.dumps(new[key])} for key in new)
            self._insert(models.TrialUserAttributeModel, *rows)
        trial = self._replace(trial_id)
        trial.user_attrs = {**trial.user_attrs, **attributes}
        if CONFIRMS in attributes:
            self._hidden[trial.number] = without_result(trial)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        if key in self._trials[self._number(trial_id)].system_attrs:
            super().set_trial_system_attr(trial_id, key, value)
        else:
            self._require_unfinished(trial_id)
            row = {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
            self._insert(models.TrialSystemAttributeModel, row)
        trial = self._replace(trial_id)
        trial.system_attrs = {**trial.system_attrs, key: value}

    def reopen(self, number: int) -> int:
        """Change a trial that failed or was pruned back to RUNNING, with its parameters and reports; return its id.

        One that is running stays as it is.

        Optuna 5.0 changes no trial that has ended, and `enqueue_trial` makes another one, which has no reports.
        """
        trial_id = id_of(self._trials[number])
        if self._trials[number].state in (TrialState.FAIL, TrialState.PRUNED):
            attributes = models.TrialUserAttributeModel.__table__
            values = _Value.__table__  # Optuna gives a pruned trial its last report as its value
            running = {"state": TrialState.RUNNING, "datetime_complete": None}
            of_the_end = attributes.c.trial_id == trial_id, attributes.c.key.in_(END_ATTRIBUTES)
            self._execute(_TRIALS.update().where(_TRIALS.c.trial_id == trial_id).values(running))
            self._execute(attributes.delete().where(*of_the_end))
            self._execute(values.delete().where(values.c.trial_id == trial_id))
            trial = self._replace(trial_id)
            trial.state, trial.datetime_complete, trial.values = TrialState.RUNNING, None, None
            trial.user_attrs = {key: value for key, value in trial.user_attrs.items() if key not in END_ATTRIBUTES}
        return trial_id

    def forget_params(self, trial_id: int) -> None:
        """Delete the parameters of a running trial, so that the sampler chooses them again. Optuna 5.0 cannot."""
        params = models.TrialParamModel.__table__
        self._execute(params.delete().where(params.c.trial_id == trial_id))
        trial = self._replace(trial_id)
        trial.params, trial.distributions = {}, {}

    def replace_marks(self, marks_of: Callable[[FrozenTrial], Mapping[str, float]]) -> None:
        """Replace the marks by which a pruner compares trials, also those of trials that have ended.

        Optuna 5.0 changes no trial that has ended, and the marks of one pruner mean other reports to another.
        """
        attributes = models.TrialSystemAttributeModel.__table__
        for trial in list(self._trials):
            before = {key: value for key, value in trial.system_attrs.items() if is_rung_mark(key)}
            after = dict(marks_of(trial))
            if before == after:
                continue
            trial_id = id_of(trial)
            of_the_trial = attributes.c.trial_id == trial_id, attributes.c.key.in_(before)
            self._execute(attributes.delete().where(*of_the_trial))
            for key, value in after.items():
                row = {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
                self._insert(models.TrialSystemAttributeModel, row)
            kept = {key: value for key, value in trial.system_attrs.items() if key not in before}
            self._replace(trial_id).system_attrs = {**kept, **after}

    def _number(self, trial_id: int) -> int:
        return self._trial_id_to_study_id_and_number[trial_id][1]

    def _replace(self, trial_id: int) -> FrozenTrial:
        """Put a copy in the place of a trial, and return the copy to be changed."""
        number = self._number(trial_id)
        self._trials[number] = trial = copy.copy(self._trials[number])
        return trial

    def _require_unfinished(self, trial_id: int) -> None:
        self.check_trial_is_updatable(trial_id, self._trials[self._number(trial_id)].state)

    def _insert(self, model: Any, *rows: dict[str, Any]) -> Any:
        """Write new rows; return the id of their trial. An answer is waited for only where that is not known yet."""
        table, key = model.__table__, rows[0].get("trial_id")
        with connection_of(self._backend) as connection:
            if key is None:
                return connection.execute(table.insert(), list(rows)).inserted_primary_key[0]  # type: ignore[index]
            write_row(connection, table, *rows)
        return key

    def _execute(self, statement: Any) -> None:
        """Execute a statement whose answer nobody reads."""
        with connection_of(self._backend) as connection:
            connection.execute(statement, execution_options=UNANSWERED)
