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

from sweeper.core.errors import DatasetError, InputError, StopReason, StorageError
from sweeper.core.trials import Listener
from sweeper.search.space import Point, check_point, normalized
from sweeper.spec import Sweep
from sweeper.study.cache import OwnerCachedStorage
from sweeper.study.commands import Command
from sweeper.study.compatibility import check_resumable
from sweeper.study.database import Database, open_database
from sweeper.study.lease import Lease
from sweeper.study.outage import storage_errors
from sweeper.study.study import SweepStudy
from sweeper.study.view import StudyView

MAX_FORKED_POINTS = 3
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
    stop_reason: Callable[[], StopReason | None] = lambda: None,
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
        database = stack.enter_context(open_database(sweep.storage_url()))
        with storage_errors(database):
            lease = stack.enter_context(database.lease(sweep.name))
            study, changes = _create(sweep, database, lease, forked)
            owned = SweepStudy(sweep, study, database, lease, listeners=listeners, stop_reason=stop_reason)
            owned.commands.clear()  # those of an earlier run
            _ensure_id(owned)
        owned.replay()
        if changes:
            owned.announce(f"going on with {', '.join(changes)}")
        try:
            yield owned
        except (InputError, DatasetError):
            if not owned.rows():  # refused before its first trial: nothing is to be left of it
                optuna.delete_study(study_name=sweep.name, storage=database.optuna)
            raise


def _create(sweep: Sweep, database: Database, lease: Lease, forked: str | None) -> tuple[optuna.Study, list[str]]:
    """The study, and what its sweep changes in it."""
    changes: list[str] = []
    if sweep.name in optuna.get_all_study_names(database.optuna):
        study = optuna.load_study(study_name=sweep.name, storage=database.optuna)
        if _SWEEP not in study.user_attrs:
            raise InputError(f"the study {study.study_name!r} was not made by sweeper; choose another name with --name")
        changes = check_resumable(_sweep_of(study), sweep)
        study.set_user_attr(_SWEEP, sweep.model_dump(mode="json"))
    else:
        points = [*sweep.enqueue, *(_best_points(forked, sweep, database) if forked else ())]
        with database.transaction(lease):  # all of it or nothing: half a study could not be taken up
            study = optuna.create_study(
                study_name=sweep.name, storage=database.optuna, direction=sweep.objective.direction
            )
            for point in points:
                study.enqueue_trial(dict(point), skip_if_exists=True)
            study.set_user_attr(_SWEEP, sweep.model_dump(mode="json"))
    study = optuna.load_study(study_name=sweep.name, storage=OwnerCachedStorage(database.optuna, study._study_id))
    first = sum(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False))
    study.sampler = sweep.sampler.build(sweep.space, seed=sweep.sampler_seed, first=first, trials=sweep.budget.trials)
    study.pruner = sweep.pruner.build(sweep.budget)
    return study, changes


def _best_points(name: str, sweep: Sweep, database: Database) -> list[Point]:
    """The best points of another sweep, as far as they lie in the space of this one."""
    complete = [row for row in _find(name, database).leaderboard() if row.state == "COMPLETE"]
    points = [{key: value for key, value in row.params.items() if key in sweep.space} for row in complete]
    return [normalized(point, sweep.space) for point in points if not any(check_point(point, sweep.space))][
        :MAX_FORKED_POINTS
    ]


def _ensure_id(study: SweepStudy) -> None:
    if study.facts.get("id") is None:  # made just now, or by sweeper 0.1
        study.record_facts({"id": uuid4().hex})


@contextmanager
def lock_study(name: str, storage: str) -> Iterator[StudyView]:
    """Keep a sweep from being run while the block lasts, and read its study.

    Raises:
        SweepBusyError: another process owns it.
        InputError: there is no such sweep in the storage.
    """
    with open_database(storage, must_exist=True) as database, storage_errors(database):
        view = _find(name, database)
        with database.lease(name) as lease:
            if view.id is None:
                _ensure_id(SweepStudy(view.sweep, _load(name, database), database, lease))
            yield _find(name, database)


def read_study(name: str, storage: str) -> StudyView:
    """Read the study of a sweep as it is now, whether it runs or not.

    Example:
        >>> study = read_study("lstm", "sqlite:///sweeper.db")  # doctest: +SKIP
        >>> [(row.number, row.state, row.value) for row in study.leaderboard()]  # doctest: +SKIP

    Raises:
        InputError: there is no such sweep in the storage.
    """
    with open_database(storage, must_exist=True) as database, storage_errors(database):
        return _find(name, database)


def _find(name: str, database: Database) -> StudyView:
    names = sorted(optuna.get_all_study_names(database.optuna))
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names) or 'none'}"
        raise InputError(f"no sweep {name!r} in {database.display_url}; {hint}")
    study = _load(name, database)
    return StudyView(_sweep_of(study), study, database)


def _load(name: str, database: Database) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=database.optuna)


def send_command(name: str, storage: str, command: Command | None, *, timeout: float = 60.0) -> bool:
    """Have a running sweep stop, pause, or (None) go on; whether it did within the time.

    Raises:
        InputError: no such sweep is running.
    """
    with open_database(storage, must_exist=True) as database, storage_errors(database):
        _find(name, database)
        if not database.is_owned(name):
            raise InputError(f"sweep {name!r} is not running; go on with it: sweeper resume {name}")
        commands = database.commands(name)
        if command is None:
            commands.clear()
            return True
        commands.send(command)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if not database.is_owned(name) or (command == "pause" and commands.is_acknowledged(command)):
                return True
            time.sleep(0.25)
        return False


def list_sweeps(storage: str) -> list[SweepSummary]:
    """All sweeps of a storage, newest first."""
    with open_database(storage, must_exist=True) as database, storage_errors(database):
        summaries = []
        for name in optuna.get_all_study_names(database.optuna):
            study = optuna.load_study(study_name=name, storage=database.optuna)
            if _SWEEP in study.user_attrs:
                summaries.append(_summary(study, database))
    return sorted(summaries, key=lambda summary: summary.created.timestamp() if summary.created else 0, reverse=True)


def _summary(study: optuna.Study, database: Database) -> SweepSummary:
    sweep = _sweep_of(study)
    view = StudyView(sweep, study, database)
    trials, best = view.rows(), view.best()
    return SweepSummary(
        name=study.study_name,
        created=min((row.started for row in trials if row.started), default=None),
        counts={state: sum(row.state == state for row in trials) for state in sorted({row.state for row in trials})},
        trials=sweep.budget.trials,
        best=best.value if best else None,
        metric=sweep.objective.metric,
        direction=sweep.objective.direction,
        running=database.is_owned(sweep.name),
        paused=database.is_owned(sweep.name) and database.commands(sweep.name).current() == "pause",
    )


def _sweep_of(study: optuna.Study) -> Sweep:
    try:
        return Sweep.model_validate(study.user_attrs[_SWEEP])
    except (KeyError, ValueError) as error:
        raise StorageError(f"the study {study.study_name!r} holds no sweep this version can read") from error
