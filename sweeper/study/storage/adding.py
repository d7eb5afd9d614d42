"""Adds trials to a study that are not proposals of its sampler: those of another study, and fresh runs of its best."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import astuple

from optuna.storages._rdb import models
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial
from sqlalchemy import Connection

from sweeper.core.trials import FreshRun
from sweeper.search.confirming import CONFIRMS
from sweeper.search.history import ORIGIN, START_POINT
from sweeper.search.optuna_internals import storage_of, study_id, trial_id
from sweeper.study.storage.cache import OwnerCachedStorage

_Intermediate = models.TrialIntermediateValueModel


def add_fresh_run(study: Study, fresh: FreshRun) -> Trial:
    """Add a running trial with the parameters of another one, and with the mark that keeps it out of the search."""
    storage = storage_of(study)
    assert isinstance(storage, OwnerCachedStorage)
    added = storage.create_new_trial(study_id(study))
    storage.set_trial_system_attr(added, START_POINT, storage.recorded()[fresh.trial].params)
    origin = f"trial {fresh.trial}, with a fresh seed"
    storage.set_trial_user_attrs(added, {CONFIRMS: astuple(fresh), ORIGIN: origin})
    return Trial(study, added)


def add_ended_trials(study: Study, trials: Sequence[FrozenTrial], connection: Connection) -> None:
    """Add trials of another study to a new one, as part of the connection's transaction.

    Optuna 5.0. Its `add_trial` takes a millisecond for each report, and the database is locked meanwhile.
    """
    for trial in trials:
        without_reports = copy.copy(trial)
        without_reports.intermediate_values = {}
        study.add_trial(without_reports)
    rows = []
    for added, trial in zip(study.get_trials(deepcopy=False), trials, strict=True):
        for step, value in trial.intermediate_values.items():
            stored, kind = _Intermediate.intermediate_value_to_stored_repr(value)
            row = {"trial_id": trial_id(added), "step": step, "intermediate_value": stored}
            rows.append({**row, "intermediate_value_type": kind})
    if rows:
        connection.execute(_Intermediate.__table__.insert(), rows)
