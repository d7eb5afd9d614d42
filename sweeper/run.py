"""One sweep from its file to its champion: the whole story on one page."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.core.errors import InputError, LeaseLostError, TrackingError
from sweeper.core.files import Place, private_files
from sweeper.core.remote_folder import RemoteFolder, is_remote, local_folder
from sweeper.core.secrets import has_secret
from sweeper.core.sweep_folder import claim_folder
from sweeper.core.trials import Listener, Report, TrialRow
from sweeper.driver.auth import refuse_open_cluster
from sweeper.driver.preflight import preflight
from sweeper.driver.stop import StopRequest
from sweeper.spec import Sweep
from sweeper.worker.checkpoints import space_taken
from sweeper.worker.task import Job

if TYPE_CHECKING:
    from sweeper.datasets.base import Arrays
    from sweeper.study.study import SweepStudy
    from sweeper.tracking import Champion, Projection

logger = logging.getLogger(__name__)


_PATIENCE = 20.0
"""Seconds that MLflow waits for a first report, while the processor is wanted by the workers that start."""


@private_files()
def run_sweep(
    sweep: Sweep,
    *,
    folder: Path | str | None = None,
    address: str | None = None,
    tracking_uri: str | None = None,
    forked: str | None = None,
    insecure: bool = False,
    allow_code_change: bool = False,
    listeners: Sequence[Listener] = (),
) -> SweepResult:
    """Run a sweep to its end, or take it up where it stands; the same call does both.

    Args:
        folder: where everything goes that is not in a database; `sweeps/NAME` by default. Where the nodes of a cluster
            share no disk, a URL that all of them reach, as s3://bucket/sweeps/NAME.
        address: a Ray cluster to run on; by default the one in RAY_ADDRESS, else this machine.
        tracking_uri: the MLflow store or server; by default that of the sweep, of MLFLOW_TRACKING_URI, or a local file.
        forked: the name of another sweep in the same storage, whose best points a new sweep tries first.
        insecure: join a Ray cluster elsewhere even if it obeys anyone who reaches it.
        allow_code_change: go on even if the trainable is not what it was when the trials on record ran.
        listeners: told of every change while the sweep runs.

    Raises:
        InputError: the sweep cannot be run as it is; nothing was started.
        SweeperError: something sweeper needs is missing or broken.
    """
    from sweeper import tracking

    started = time.monotonic()
    remote = str(folder) if folder is not None and is_remote(folder) else None
    folder = local_folder(remote) if remote else Path(folder or Path("sweeps") / sweep.name).absolute()
    uri = tracking.tracking_uri(sweep, tracking_uri)
    projection = tracking.Projection(sweep, uri)
    everyone = [*listeners, projection, _Housekeeper(Job(sweep, folder, remote=remote))]
    settled = preflight(sweep, folder=folder, remote=remote, address=address, tracking_uri=uri)
    if not insecure:
        refuse_open_cluster(address)
    # Optuna takes half a second to import, which what is refused need not wait for.
    from sweeper.study.compatibility import surroundings
    from sweeper.study.open import open_study

    with (
        StopRequest(sweep.budget.timeout) as stop,
        open_study(sweep, forked=forked, listeners=everyone, stop_reason=stop.requested) as study,
        claim_folder(folder, study, remote=RemoteFolder(remote) if remote else None),
    ):
        facts = surroundings(study, allow_code_change=allow_code_change)
        _write_json(folder / "sweep.json", sweep.model_dump(mode="json"))
        # A URI with a password in it is nobody's to write down.
        store = {} if has_secret(uri) else {"tracking_uri": uri}
        origin = {"forked": forked} if forked else {}
        study.record_facts({"folder": remote or str(folder), **facts, **store, **origin})
        notes = _announce_dataset(study, sweep, settled)
        try:
            job = Job(settled, folder, remote=remote, study=study.id)
            evaluation = _search(study, job, projection, address=address, stop=stop)
            champion, refusals = _register(study, evaluation, folder, projection)
        except LeaseLostError:
            projection.abandon()
            raise
        finally:
            is_delivered = projection.close(timeout=5 if stop.reason else 30)
        if not is_delivered:
            refusals += ("MLflow does not have everything yet; the study has, and the same command delivers it",)
        rows = study.rows()
        states = [row.state for row in rows]
        return SweepResult(
            name=sweep.name,
            folder=remote or folder,
            sweep=sweep,
            counts={state: states.count(state) for state in sorted(set(states))},
            leaderboard=tuple(study.leaderboard()),
            reports_run=sum(row.step for row in rows),
            reports_budgeted=len(rows) * sweep.budget.reports,
            evaluation=evaluation,
            champion=champion,
            stopped=None if study.is_done() else stop.reason,
            seconds=time.monotonic() - started,
            resumed=study.resumed,
            tracking_uri=uri,
            notes=notes + refusals,
            checkpoint_bytes=space_taken(folder),
        )


def _search(
    study: SweepStudy, job: Job, projection: Projection, *, address: str | None, stop: StopRequest
) -> dict[str, float] | None:
    """Run what is left of the trials; the metrics of the best one on the test set, if its trainable can test."""
    from sweeper.core.user_code import load_trainable
    from sweeper.tracking import digest

    can_evaluate = hasattr(load_trainable(job.sweep.trainable), "evaluate")
    known = _read_evaluation(study, job)

    def must_evaluate(best: TrialRow) -> bool:
        return can_evaluate and known.get("trial") != best.number

    best = study.best()
    if study.is_done() and (best is None or not must_evaluate(best)):
        _recorded(study, _load_data(job))
        projection.start(study)
    else:
        study.announce("starting Ray")
        with _prepared(study, job, address=address) as job:
            from sweeper.driver.stop import Control
            from sweeper.driver.tune import tune_trials

            place = Place(job.folder, "the folder of the sweep")
            projection.start(study, patience=_PATIENCE)
            wanted = job.sweep.budget.parallel
            parallel = None if wanted == "auto" else int(wanted)
            options: dict[str, Any] = {"parallel": parallel, "must_evaluate": must_evaluate}
            found = tune_trials(study, job, should_stop=Control(study, stop, place).is_over, **options)
            if stop.reason == "timeout":  # the time was for the search; what it found is worth a few seconds more
                found = tune_trials(study, job, should_stop=lambda: stop.reason != "timeout", search=False, **options)
        best = study.best()
        if found is not None and best is not None:
            known = {"trial": best.number, "metrics": found}
            if (shared := job.remote_folder) is not None:  # the worker that tested it may be on another node
                shared.get(job.champion_folder.name, job.champion_folder)
            _write_json(job.champion_folder / "evaluation.json", known)
            study.record_facts({"champion": digest(job.champion_folder)})
    is_known = best is not None and known.get("trial") == best.number
    return dict(known["metrics"]) if is_known else None


@contextmanager
def _prepared(study: SweepStudy, job: Job, *, address: str | None) -> Iterator[Job]:
    """Ray, for the time of the block; the job with its data.

    Ray takes seconds to start, nearly all of it in processes of its own: time to load the data, and Ray Tune.
    """
    from sweeper.driver.capacity import refuse_what_never_starts
    from sweeper.driver.cluster import ray_cluster
    from sweeper.driver.node_check import check_nodes

    with ThreadPoolExecutor(1, "sweeper-prepare") as helper:
        loading = helper.submit(_load_data, job)
        importing = helper.submit(import_module, "sweeper.driver.tune")
        with ray_cluster(address, job.sweep.trainable) as is_ours:
            refuse_what_never_starts(job.sweep)
            for note in () if is_ours else check_nodes(job.remote or job.folder):
                study.announce(note)
            job = replace(job, data=_recorded(study, loading.result()))
            importing.result()
            yield job


def _register(
    study: SweepStudy, evaluation: dict[str, float] | None, folder: Path, projection: Projection
) -> tuple[Champion | None, tuple[str, ...]]:
    """Put the best model into the registry; what stands against it, if anything: the model is safe all the same."""
    from sweeper import tracking

    best = study.best()
    if best is None or evaluation is None:
        return None, ()
    champion_folder = Job(study.sweep, folder).champion_folder
    if not projection.flush():
        return None, (f"the best model is in {champion_folder}; the same command registers it when MLflow keeps up",)
    study.announce("registering the best model")
    try:
        return tracking.register_champion(study, best, evaluation, champion_folder, projection.uri), ()
    except TrackingError as error:
        return None, (str(error),)


class _Housekeeper:
    """Keeps the checkpoints of running trials and of the best one, and removes those of the others."""

    def __init__(self, job: Job) -> None:
        self._job = job
        # Another machine takes its time, which the trials that run do not have.
        self._elsewhere = None if job.remote is None else ThreadPoolExecutor(1, "sweeper-housekeeping")
        self._best: TrialRow | None = None

    def on_trial(self, row: TrialRow, report: Report | None) -> None:
        if row.state == "RUNNING":
            return
        beaten: TrialRow | None = row
        best = self._best.value if self._best else None
        if row.state == "COMPLETE" and self._job.sweep.objective.is_better(row.value, best):
            beaten, self._best = self._best, row
        if beaten is not None:
            clear = self._job.checkpoints(beaten.number).clear
            clear() if self._elsewhere is None else self._elsewhere.submit(clear)

    def on_phase(self, message: str) -> None:
        """Nothing to keep or remove."""


def _announce_dataset(study: SweepStudy, sweep: Sweep, settled: Sweep) -> tuple[str, ...]:
    """Say that other data is used than was asked for, if so."""
    if sweep.dataset is None or settled.dataset is None or settled.dataset == sweep.dataset:
        return ()
    note = f"{sweep.dataset.type} is not to be had here: using {settled.dataset.type} instead. See `sweeper doctor`"
    study.announce(note)
    return (note,)


def _load_data(job: Job) -> Arrays | None:
    return None if job.sweep.dataset is None else job.sweep.dataset.load()


def _recorded(study: SweepStudy, arrays: Arrays | None) -> Arrays | None:
    """Keep in the study which data it is about.

    Raises:
        InputError: the sweep began with other data.
    """
    if arrays is None:
        return None
    facts = {"name": arrays.name, "digest": arrays.digest, "source": arrays.source}
    before = study.facts.get("dataset", facts)
    if before["digest"] != arrays.digest:
        raise InputError(
            f"sweep {study.name!r} began with {before['name']} from {before['source']}; the data is another now "
            f"({arrays.name} from {arrays.source}). Bring the first back, or choose another name with --name"
        )
    sizes = {"train": len(arrays.x_train), "validation": len(arrays.x_val), "test": len(arrays.x_test)}
    study.record_facts({"dataset": {**facts, **sizes}})
    return arrays


def _read_evaluation(study: SweepStudy, job: Job) -> dict[str, Any]:
    """What was evaluated before; nothing, if the files are not those that the study remembers, or nonsense."""
    from sweeper.tracking import digest

    try:
        found = json.loads((job.champion_folder / "evaluation.json").read_text())
        metrics = {str(name): float(value) for name, value in found["metrics"].items()}
        known = {"trial": int(found["trial"]), "metrics": metrics}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}
    return known if study.facts.get("champion", "") == digest(job.champion_folder) else {}


def _write_json(path: Path, value: Any) -> None:
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(value, indent=2) + "\n")
    beside.rename(path)


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to; nothing more needs to be read from its database, which may be away by now."""

    name: str
    folder: Path | str
    sweep: Sweep
    counts: dict[str, int]
    leaderboard: tuple[TrialRow, ...]
    reports_run: int
    reports_budgeted: int
    evaluation: dict[str, float] | None
    champion: Champion | None
    stopped: str | None
    seconds: float
    resumed: int
    tracking_uri: str
    notes: tuple[str, ...] = ()
    checkpoint_bytes: int = 0

    @property
    def best(self) -> TrialRow | None:
        """The COMPLETE trial with the best value."""
        return next((row for row in self.leaderboard if row.state == "COMPLETE"), None)
