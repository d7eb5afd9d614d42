"""Opening, reading and listing the studies of a database."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import optuna
from optuna.trial import TrialState

from sweeper.errors import DatasetError, InputError, StorageError
from sweeper.owned import OwnedStorage
from sweeper.spec import Sweep
from sweeper.storage import Store, open_store
from sweeper.study import Listener, SweepStudy

_SWEEP = "sweep"
"""The study's user attribute that holds the sweep that made it."""


@dataclass(frozen=True)
class SweepSummary:
    """One line of `sweeper list`."""

    name: str
    created: datetime | None
    counts: dict[str, int]
    trials: int
    best: float | None
    metric: str
    direction: str
    running: bool


@contextmanager
def open_study(sweep: Sweep, *, listeners: Sequence[Listener] = ()) -> Iterator[SweepStudy]:
    """Become the owner of a sweep's study: create it, or take it up where it stands.

    Raises:
        SweepBusyError: another process owns it.
        InputError: the study was made by a sweep that differs in what may not change.
        StorageError: the database cannot be used.
    """
    with open_store(sweep.storage_url()) as store, store.lease(sweep.name) as lease:
        study = _create(sweep, store)
        owned = SweepStudy(sweep, study, store, listeners=listeners, lease=lease)
        owned.replay()
        try:
            yield owned
        except (InputError, DatasetError):
            if not owned.rows():  # refused before its first trial: nothing is to be left of it
                optuna.delete_study(study_name=sweep.name, storage=store.optuna)
            raise


def _create(sweep: Sweep, store: Store) -> optuna.Study:
    if sweep.name in optuna.get_all_study_names(store.optuna):
        study = optuna.load_study(study_name=sweep.name, storage=store.optuna)
        _refuse_changes(sweep, study)
    else:
        study = optuna.create_study(
            study_name=sweep.name, storage=store.optuna, direction=sweep.objective.direction, load_if_exists=True
        )
        for point in sweep.enqueue:
            study.enqueue_trial(dict(point), skip_if_exists=True)
    study.set_user_attr(_SWEEP, sweep.model_dump(mode="json"))
    study = optuna.load_study(study_name=sweep.name, storage=OwnedStorage(store.optuna, study._study_id))
    first = sum(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False))
    study.sampler = sweep.sampler.build(sweep.space, seed=sweep.sampler_seed, first=first, trials=sweep.budget.trials)
    study.pruner = sweep.pruner.build(sweep.budget)
    return study


_MAY_CHANGE = frozenset({"budget", "resources", "tracking", "storage", "description"})
_MAY_NOT_CHANGE_IN_BUDGET = frozenset({"epochs", "steps", "reports_per_epoch", "report_every"})


def _refuse_changes(sweep: Sweep, study: optuna.Study) -> None:
    """A sweep goes on only as what it was: trials of another space or objective would not compare."""
    made_by = study.user_attrs.get(_SWEEP)
    if made_by is None:
        raise InputError(f"the study {study.study_name!r} was not made by sweeper; choose another name with --name")
    asked = sweep.model_dump(mode="json")
    changed = [key for key in asked if key not in _MAY_CHANGE and asked[key] != made_by.get(key)]
    budget, before = asked["budget"], made_by["budget"]
    changed += [f"budget.{key}" for key in _MAY_NOT_CHANGE_IN_BUDGET if budget.get(key) != before.get(key)]
    if changed:
        raise InputError(
            f"sweep {sweep.name!r} exists with another {', '.join(sorted(changed))}; its trials would not compare. "
            f"Choose another name with --name, or undo the change"
        )


def read_study(name: str, storage: str) -> SweepStudy:
    """The study of a sweep as it stands, to look at.

    Raises:
        InputError: there is no such sweep in the storage.
    """
    with open_store(storage, must_exist=True) as store:
        names = sorted(optuna.get_all_study_names(store.optuna))
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names) or 'none'}"
            raise InputError(f"no sweep {name!r} in {store.shown}; {hint}")
        study = optuna.load_study(study_name=name, storage=store.optuna)
        return SweepStudy(_sweep_of(study), study, store)


def list_sweeps(storage: str) -> list[SweepSummary]:
    """All sweeps of a storage, newest first."""
    with open_store(storage, must_exist=True) as store:
        summaries = []
        for name in optuna.get_all_study_names(store.optuna):
            study = optuna.load_study(study_name=name, storage=store.optuna)
            if _SWEEP in study.user_attrs:
                summaries.append(_summary(study, store))
    return sorted(summaries, key=lambda summary: summary.created.timestamp() if summary.created else 0, reverse=True)


def _summary(study: optuna.Study, store: Store) -> SweepSummary:
    sweep = _sweep_of(study)
    look = SweepStudy(sweep, study, store)
    trials, best = look.rows(), look.best()
    return SweepSummary(
        name=study.study_name,
        created=min((row.started for row in trials if row.started), default=None),
        counts={state: sum(row.state == state for row in trials) for state in sorted({row.state for row in trials})},
        trials=sweep.budget.trials,
        best=best.value if best else None,
        metric=sweep.objective.metric,
        direction=sweep.objective.direction,
        running=store.is_owned(sweep.name),
    )


def _sweep_of(study: optuna.Study) -> Sweep:
    try:
        return Sweep.model_validate(study.user_attrs[_SWEEP])
    except (KeyError, ValueError) as error:
        raise StorageError(f"the study {study.study_name!r} holds no sweep this version can read") from error
