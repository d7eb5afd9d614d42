"""Reads all trials of a study at once: whole, or what their records need."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from optuna.distributions import json_to_distribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial

_Trial: Any = models.TrialModel
_Intermediate = models.TrialIntermediateValueModel
_Value = models.TrialValueModel

_REPORT = ("step", "intermediate_value", "intermediate_value_type")

_distribution = lru_cache(maxsize=1024)(json_to_distribution)  # the trials of a study repeat the same few


def read_trials(study: str, engine: sa.Engine, *, whole: bool = False) -> list[FrozenTrial]:
    """Return all trials of a study by number.

    Optuna 5.0. Its storage makes an object of each row of each table, which takes several times as long.

    Args:
        whole: whether to read them as Optuna does, or each with its last report only, and without distributions and
            Optuna's own marks.
    """
    params, distributions, user_attrs, system_attrs = (defaultdict[int, dict[str, Any]](dict) for _ in range(4))
    values, reports = defaultdict[int, dict[int, float]](dict), defaultdict[int, dict[int, float]](dict)
    with engine.connect() as connection:
        rows = _Rows(connection, study)
        trials = list(rows.trials())
        for trial, name, value, document in rows.of(
            models.TrialParamModel, "param_name", "param_value", "distribution_json", order="param_id"
        ):
            distribution = _distribution(document)
            params[trial][name] = distribution.to_external_repr(value)
            if whole:
                distributions[trial][name] = distribution
        for trial, key, document in rows.of(models.TrialUserAttributeModel, "key", "value_json"):
            user_attrs[trial][key] = json.loads(document)
        if whole:
            for trial, key, document in rows.of(models.TrialSystemAttributeModel, "key", "value_json"):
                system_attrs[trial][key] = json.loads(document)
        for trial, objective, value, kind in rows.of(_Value, "objective", "value", "value_type"):
            values[trial][objective] = _Value.stored_repr_to_value(value, kind)
        for trial, step, value, kind in rows.of(_Intermediate, *_REPORT) if whole else rows.last_reports():
            reports[trial][step] = _Intermediate.stored_repr_to_intermediate_value(value, kind)
    return [
        FrozenTrial(
            number=number,
            state=state,
            value=None,
            values=[value for _, value in sorted(values[trial].items())] if trial in values else None,
            datetime_start=_local(start),
            datetime_complete=_local(complete),
            params=params.get(trial, {}),
            distributions=distributions.get(trial, {}),
            user_attrs=user_attrs.get(trial, {}),
            system_attrs=system_attrs.get(trial, {}),
            intermediate_values=reports.get(trial, {}),
            trial_id=trial,
        )
        for trial, number, state, start, complete in trials
    ]


class _Rows:
    """The rows of one study in Optuna's tables."""

    def __init__(self, connection: sa.Connection, study: str) -> None:
        self._connection = connection
        studies: Any = models.StudyModel.__table__
        query = sa.select(studies.c.study_id).where(studies.c.study_name == study)
        self._is_own = _Trial.__table__.c.study_id == connection.execute(query).scalar_one()

    def trials(self) -> Iterable[Any]:
        """Return id, number, state, and the times of start and end in UTC."""
        own = _Trial.__table__.c
        query = sa.select(own.trial_id, own.number, own.state, own.datetime_start, own.datetime_complete)
        return self._connection.execute(query.where(self._is_own).order_by(own.number))

    def of(self, model: Any, *names: str, order: str | None = None) -> Iterable[Any]:
        """Return the id of the trial, and these columns, of the rows of another table."""
        table = model.__table__
        query = sa.select(table.c.trial_id, *(table.c[name] for name in names))
        query = query.select_from(table.join(_Trial.__table__)).where(self._is_own)
        return self._connection.execute(query if order is None else query.order_by(table.c[order]))

    def last_reports(self) -> Iterable[Any]:
        """Return the id of the trial, the step, the value and the kind of value of the last report of each trial."""
        reports: Any = _Intermediate.__table__
        steps = sa.select(reports.c.trial_id, sa.func.max(reports.c.step).label("step"))
        last = (
            steps.select_from(reports.join(_Trial.__table__))
            .where(self._is_own)
            .group_by(reports.c.trial_id)
            .subquery()
        )
        query = sa.select(reports.c.trial_id, *(reports.c[name] for name in _REPORT))
        is_last = sa.and_(reports.c.trial_id == last.c.trial_id, reports.c.step == last.c.step)
        return self._connection.execute(query.join(last, is_last))


def _local(moment: datetime | None) -> datetime | None:
    """Return a time that is stored in UTC as Optuna returns it: in local time, without a time zone."""
    return None if moment is None else moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
