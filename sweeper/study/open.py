"""Opening, reading and listing the studies of a database."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

import optuna
from optuna.trial import TrialState

from sweeper.core.errors import DatasetError, InputError, StorageError
from sweeper.core.trials import Listener
from sweeper.search.space import Point, check_point, normal
from sweeper.spec import Sweep
from sweeper.study.cache import OwnedStorage
from sweeper.study.commands import Order
from sweeper.study.compatibility import check_changes
from sweeper.study.database import Store, open_store
from sweeper.study.outage import explained
from sweeper.study.study import SweepStudy

_FORKED = 3
"""Points of a sweep that one forked from it tries first."""


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
    paused: bool


@contextmanager
def open_study(
    sweep: Sweep,
    *,
    forked: str | None = None,
    listeners: Sequence[Listener] = (),
    stop_reason: Callable[[], str | None] = lambda: None,
) -> Iterator[SweepStudy]:
    """Become the owner of a sweep's study: create it, or take it up where it stands.

    Args:
        forked: the sweep whose best points are to be tried first, where this one is new.
        listeners: told of every change.
        stop_reason: asked while the study waits for its database; anything but None ends the waiting.

    Raises:
        SweepBusyError: another process owns it.
        InputError: the study was made by a sweep that differs in what may not change.
        StorageError: the database cannot be used.
    """
    with ExitStack() as stack:
        store = stack.enter_context(open_store(sweep.storage_url()))
        with explained(store):
            lease = stack.enter_context(store.lease(sweep.name))
            study, changes = _create(sweep, store, forked)
            owned = SweepStudy(sweep, study, store, listeners=listeners, lease=lease, stop_reason=stop_reason)
            owned.orders.withdraw()  # those of an earlier run
            if "id" not in owned.facts:
                owned.record_facts({"id": uuid4().hex})
        owned.replay()
        if changes:
            owned.announce(f"going on with {', '.join(changes)}")
        try:
            yield owned
        except (InputError, DatasetError):
            if not owned.rows():  # refused before its first trial: nothing is to be left of it
                optuna.delete_study(study_name=sweep.name, storage=store.optuna)
            raise


def _create(sweep: Sweep, store: Store, forked: str | None) -> tuple[optuna.Study, list[str]]:
    """The study, and what its sweep changes in it."""
    changes: list[str] = []
    if sweep.name in optuna.get_all_study_names(store.optuna):
        study = optuna.load_study(study_name=sweep.name, storage=store.optuna)
        if _SWEEP not in study.user_attrs:
            raise InputError(f"the study {study.study_name!r} was not made by sweeper; choose another name with --name")
        changes = check_changes(_sweep_of(study), sweep)
        study.set_user_attr(_SWEEP, sweep.model_dump(mode="json"))
    else:
        points = [*sweep.enqueue, *(_best_points(forked, sweep, store) if forked else ())]
        with store.transaction():  # all of it or nothing: half a study could not be taken up
            study = optuna.create_study(
                study_name=sweep.name, storage=store.optuna, direction=sweep.objective.direction
            )
            for point in points:
                study.enqueue_trial(dict(point), skip_if_exists=True)
            study.set_user_attr(_SWEEP, sweep.model_dump(mode="json"))
    study = optuna.load_study(study_name=sweep.name, storage=OwnedStorage(store.optuna, study._study_id))
    first = sum(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False))
    study.sampler = sweep.sampler.build(sweep.space, seed=sweep.sampler_seed, first=first, trials=sweep.budget.trials)
    study.pruner = sweep.pruner.build(sweep.budget)
    return study, changes


def _best_points(name: str, sweep: Sweep, store: Store) -> list[Point]:
    """The best points of another sweep, as far as they lie in the space of this one."""
    complete = [row for row in _find(name, store).leaderboard() if row.state == "COMPLETE"]
    points = [{key: value for key, value in row.params.items() if key in sweep.space} for row in complete]
    return [normal(point, sweep.space) for point in points if not any(check_point(point, sweep.space))][:_FORKED]


def read_study(name: str, storage: str) -> SweepStudy:
    """The study of a sweep as it stands, to look at.

    Raises:
        InputError: there is no such sweep in the storage.
    """
    with open_store(storage, must_exist=True) as store, explained(store):
        return _find(name, store)


def _find(name: str, store: Store) -> SweepStudy:
    names = sorted(optuna.get_all_study_names(store.optuna))
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names) or 'none'}"
        raise InputError(f"no sweep {name!r} in {store.shown}; {hint}")
    study = optuna.load_study(study_name=name, storage=store.optuna)
    return SweepStudy(_sweep_of(study), study, store)


def give_order(name: str, storage: str, order: Order | None, *, timeout: float = 60.0) -> bool:
    """Have a running sweep stop, pause, or (None) go on; whether it did within the time.

    Raises:
        InputError: no such sweep is running.
    """
    with open_store(storage, must_exist=True) as store, explained(store):
        _find(name, store)
        if not store.is_owned(name):
            raise InputError(f"sweep {name!r} is not running; go on with it: sweeper resume {name}")
        orders = store.orders(name)
        if order is None:
            orders.withdraw()
            return True
        orders.give(order)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if not store.is_owned(name) or (order == "pause" and orders.is_followed(order)):
                return True
            time.sleep(0.25)
        return False


def list_sweeps(storage: str) -> list[SweepSummary]:
    """All sweeps of a storage, newest first."""
    with open_store(storage, must_exist=True) as store, explained(store):
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
        paused=store.is_owned(sweep.name) and store.orders(sweep.name).current() == "pause",
    )


def _sweep_of(study: optuna.Study) -> Sweep:
    try:
        return Sweep.model_validate(study.user_attrs[_SWEEP])
    except (KeyError, ValueError) as error:
        raise StorageError(f"the study {study.study_name!r} holds no sweep this version can read") from error
