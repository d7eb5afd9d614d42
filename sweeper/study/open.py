"""Open, read and list the studies of a database; send commands to running sweeps."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from uuid import uuid4

import optuna
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from sweeper.core.errors import InputError, StopReason, StorageError, SweeperError
from sweeper.core.trials import Listener
from sweeper.search.history import ORIGIN, is_fresh_run, is_history, marks_of
from sweeper.search.optuna_internals import GoalStudy, name_goals
from sweeper.search.seeding import fork_seed
from sweeper.spec import Sweep
from sweeper.study.compatibility import Origin, check_resumable, next_eras, take_over, with_reached_total
from sweeper.study.database import Database, open_database
from sweeper.study.lease import Lease, find_held
from sweeper.study.queue import notify
from sweeper.study.storage.adding import add_ended_trials
from sweeper.study.storage.cache import OwnerCachedStorage
from sweeper.study.storage.commands import Command
from sweeper.study.storage.memory import no_full_collections
from sweeper.study.storage.outage import storage_errors
from sweeper.study.storage.tables import SWEEP, delete_rows
from sweeper.study.study import SweepStudy
from sweeper.study.view import DELETING, ERAS, FACTS, HISTORY, StudyView, SweepSummary


@contextmanager
def open_study(
    sweep: Sweep,
    *,
    forked: str | None = None,
    listeners: Sequence[Listener] = (),
    stop_reason: Callable[[], StopReason | None] = lambda: None,
) -> Iterator[SweepStudy]:
    """Create the study of a sweep, or open it to resume the sweep, and own it for the block.

    Args:
        forked: the sweep from whose trials a new one learns.
        listeners: notified of every change.
        stop_reason: polled while the study waits for its database; anything but None ends the wait.

    Raises:
        SweepBusyError: another process owns the sweep.
        InputError: the study's sweep differs in what may not change.
        StorageError: the database cannot be used.
    """
    with ExitStack() as stack:
        stack.enter_context(no_full_collections())
        database = stack.enter_context(open_database(sweep.storage_url()))
        stack.enter_context(database.removed_if_refused())
        with storage_errors(database):
            lease = stack.enter_context(database.lease(sweep.name))
            is_new = sweep.name not in optuna.get_all_study_names(database.optuna)
            notes = _create(sweep, database, lease, forked) if is_new else []
            sweep, optuna_study, changes = _load_to_own(sweep, database, lease)
            study = SweepStudy(sweep, optuna_study, database, lease, listeners=listeners, stop_reason=stop_reason)
            study.commands.clear()  # those of an earlier run
            _ensure_id(study)
        for row in study.rows(with_fresh=True):
            if row.state != "RUNNING":  # it ended in an earlier run
                notify(listeners, row, None)
        for note in (*notes, *changes):
            study.announce(note)
        try:
            yield study
        except SweeperError:
            if is_new and not study.rows():  # refused before its first trial, so that nothing must remain of it
                with suppress(SQLAlchemyError), database.transaction(lease):
                    optuna.delete_study(study_name=sweep.name, storage=database.optuna)
            raise


def _create(sweep: Sweep, database: Database, lease: Lease, forked: str | None) -> list[str]:
    """Create the study of a sweep with its start points, and what it takes over from another; return notes."""
    origin = Origin([], list(sweep.enqueue), {}, "")
    if forked:
        parent = find_study(forked, database)
        trials = [trial for trial in _load(forked, database).get_trials(deepcopy=False) if not is_fresh_run(trial)]
        origin = take_over(parent.sweep, parent.facts, trials, sweep)
    with database.transaction(lease) as connection:  # all or nothing: half a study could not be resumed
        delete_rows(sweep.name, connection)  # of a study that another tool deleted
        directions = [goal.direction for goal in sweep.goals]
        study = optuna.create_study(study_name=sweep.name, storage=database.optuna, directions=directions)
        if len(sweep.goals) > 1:
            name_goals(study, [goal.metric for goal in sweep.goals])
        add_ended_trials(study, origin.trials, connection)
        for point in origin.points:
            attributes = None if point in sweep.enqueue else {ORIGIN: "fork"}
            study.enqueue_trial(dict(point), user_attrs=attributes, skip_if_exists=True)
        study.set_user_attr(SWEEP, sweep.model_dump(mode="json"))
        study.set_user_attr(FACTS, {"id": uuid4().hex, **origin.facts})
    return [origin.note] if origin.note else []


def _load_to_own(sweep: Sweep, database: Database, lease: Lease) -> tuple[Sweep, optuna.Study, list[str]]:
    """Return a sweep and its study as the owner uses them, and a note for each change since it was last opened."""
    storage = OwnerCachedStorage(database.optuna, database.optuna.get_study_id_from_name(sweep.name))
    study = GoalStudy(sweep.name, storage)
    if SWEEP not in study.user_attrs:
        raise InputError(f"study {study.study_name!r} was not made by sweeper. Choose another name with --name")
    before, facts = _sweep_of(study), study.user_attrs.get(FACTS, {})
    _refuse_half_deleted(sweep.name, facts)
    trials = study.get_trials(deepcopy=False)
    begun = [trial.number for trial in trials if trial.state != TrialState.WAITING]
    if sweep.confirm is None:  # that `sweeper confirm` asked for it is not taken back by a file that does not
        sweep = sweep.model_copy(update={"confirm": before.confirm})
    own = sum(not is_history(trials[number]) and not is_fresh_run(trials[number]) for number in begun)
    sweep, notes = with_reached_total(sweep, own)
    if changes := check_resumable(before, sweep):
        notes.append(f"Resuming with {', '.join(changes)}.")
        with database.transaction(lease):
            study.set_user_attr(SWEEP, sweep.model_dump(mode="json"))
            if (before.sampler, before.pruner) != (sweep.sampler, sweep.pruner):
                eras = next_eras(before, sweep, facts, max(begun, default=-1) + 1)
                study.set_user_attr(FACTS, {**facts, ERAS: eras})
            if before.pruner != sweep.pruner:
                storage.replace_marks(lambda trial: marks_of(sweep.pruner, sweep.budget, trial.intermediate_values))
    seed = fork_seed(sweep.sampler_seed, sweep.name) if HISTORY in facts else sweep.sampler_seed
    study.sampler = sweep.chosen_sampler.build(sweep.space, seed=seed, trials=sweep.budget.trials)
    study.pruner = sweep.chosen_pruner.build(sweep.budget)
    return sweep, study, notes


def _refuse_half_deleted(name: str, facts: Mapping[str, Any]) -> None:
    if DELETING in facts:
        raise InputError(
            f"sweep {name!r} is deleted in part, because `sweeper delete` did not end. Finish it: sweeper delete {name}"
        )


def _ensure_id(study: SweepStudy) -> None:
    if study.facts.get("id") is None:  # created by sweeper 0.1
        study.record_facts({"id": uuid4().hex})


@contextmanager
def lock_study(name: str, storage: str) -> Iterator[StudyView]:
    """Hold the lease on a sweep for the block, so that no process can run it, and read its study.

    Raises:
        SweepBusyError: another process owns the sweep.
        InputError: the database has no such sweep.
        StorageError: the database cannot be used.
    """
    with open_database(storage, must_exist=True) as database, storage_errors(database):
        view = find_study(name, database)
        with database.lease(name) as lease:
            _refuse_half_deleted(name, view.facts)
            if view.id is None:
                _ensure_id(SweepStudy(view.sweep, _load(name, database), database, lease))
            yield find_study(name, database)


def read_study(name: str, storage: str = "sqlite:///sweeper.db") -> StudyView:
    """Read the study of a sweep as it is now, whether it runs or not.

    Nothing is written, and a running sweep does not have to wait.

    Args:
        name: the name of the sweep.
        storage: the URL of the database that holds its study.

    Returns:
        The study with its trials, their reports and facts about the sweep. It has no method that writes.

    Raises:
        InputError: the URL is not one, or the database has no such sweep.
        StorageError: the database cannot be read, or a newer sweeper wrote it.

    Example:
        >>> from sweeper import read_study
        >>> study = read_study("lstm", "sqlite:///sweeper.db")
        >>> [(row.number, row.state, row.value) for row in study.leaderboard()]
        [(1, 'COMPLETE', 0.75), (0, 'COMPLETE', 0.5)]
        >>> study.best().params
        {'units': 128}
        >>> [report.metrics for report in study.reports(1)]
        [{'val_accuracy': 0.625}, {'val_accuracy': 0.75}]
    """
    with open_database(storage, read_only=True) as database, storage_errors(database):
        view = find_study(name, database)
        view.is_running = database.is_owned(name)
        return view


def find_study(name: str, database: Database) -> StudyView:
    if name not in (names := sorted(optuna.get_all_study_names(database.optuna))):
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names) or 'none'}"
        raise InputError(f"no sweep {name!r} in {database.display_url}; {hint}")
    return StudyView(_sweep_of(study := _load(name, database)), study, database)


def _load(name: str, database: Database) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=database.optuna)


def send_command(name: str, storage: str, command: Command | None, *, timeout: float = 60.0) -> bool:
    """Send a command to a running sweep, and wait until the sweep has followed it.

    Args:
        command: "stop", "pause", or None to unpause, which does not wait.
        timeout: seconds to wait.

    Returns:
        False if the sweep has not followed the command within the timeout.

    Raises:
        InputError: no such sweep is running.
        StorageError: the database cannot be used.
    """
    with open_database(storage, must_exist=True) as database, storage_errors(database):
        view = find_study(name, database)
        if not database.is_owned(name):
            ended = sum(row.state != "RUNNING" for row in view.rows())
            if ended >= view.trial_limit:
                raise InputError(f"sweep {name!r} is done: all its {ended} trials have ended")
            raise InputError(f"sweep {name!r} is not running. Resume it with: sweeper resume {name}")
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
    """Return a summary of each sweep in a database, the newest first.

    Raises:
        InputError: there is no such database.
        StorageError: the database cannot be read.
    """
    with open_database(storage, read_only=True) as database, storage_errors(database):
        studies = [_load(name, database) for name in optuna.get_all_study_names(database.optuna)]
        studies = [study for study in studies if SWEEP in study.user_attrs]
        owned = find_held(database.engine, [study.study_name for study in studies])
        summaries = [_summary(study, database, is_owned=study.study_name in owned) for study in studies]
    return sorted(summaries, key=lambda summary: summary.created.timestamp() if summary.created else 0, reverse=True)


def _summary(study: optuna.Study, database: Database, *, is_owned: bool) -> SweepSummary:
    sweep = _sweep_of(study)
    view = StudyView(sweep, study, database)
    trials, best = view.rows(), view.best()
    return SweepSummary(
        name=study.study_name,
        created=min((row.started for row in trials if row.started), default=None),
        counts={state: sum(row.state == state for row in trials) for state in sorted({row.state for row in trials})},
        trials=view.trial_limit,
        best=best.value if best else None,
        metric=sweep.objective.metric,
        direction=sweep.objective.direction,
        running=is_owned,
        paused=is_owned and database.commands(sweep.name).current() == "pause",
        is_half_deleted=DELETING in view.facts,
        seconds=sum(row.seconds or 0.0 for row in trials),
    )


def _sweep_of(study: optuna.Study) -> Sweep:
    try:
        return Sweep.model_validate(study.user_attrs[SWEEP])
    except (KeyError, ValueError) as error:
        name = study.study_name
        raise StorageError(f"study {name!r} holds no sweep that this version of sweeper can read") from error
