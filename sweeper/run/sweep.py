"""One sweep from its file to its champion, on one page. Start reading here."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.analysis.lines import plain_lines
from sweeper.analysis.report import import_in_background
from sweeper.analysis.result import SweepResult, record_outcome
from sweeper.core.code.copies import freeze_user_code
from sweeper.core.code.functions import pickle_function
from sweeper.core.code.user_code import has_evaluation
from sweeper.core.errors import LeaseLostError, StopReason
from sweeper.core.files import PinnedPath, private_files
from sweeper.core.sweep_folder import SweepFolder, claim_folder
from sweeper.core.trials import Listener, TrialRecord
from sweeper.driver.connection.auth import check_cluster
from sweeper.driver.connection.preflight import preflight
from sweeper.driver.stop import StopSignal
from sweeper.run.confirm import checkpoint_cleaner, clear_others, is_settled, model_source, models_of, record_missing
from sweeper.run.report import log_page
from sweeper.run.start import Cluster, joined_cluster, ray_with_data
from sweeper.spec import Sweep
from sweeper.worker.task import WorkerContext

if TYPE_CHECKING:
    from sweeper.study.study import SweepStudy
    from sweeper.tracking import Projection, Registered

UNDELIVERED = "MLflow does not have everything yet; the study has. The same command delivers the rest."


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
    retry: Collection[int] | None = None,
    listeners: Sequence[Listener] = (),
    progress: bool | None = None,
) -> SweepResult:
    """Run a sweep to its end, or resume it if it was interrupted.

    Args:
        folder: the folder for everything that is not in a database; `sweeps/NAME` by default. If the nodes of a cluster
            share no disk, a URL that all of them reach, such as s3://bucket/sweeps/NAME.
        address: the Ray cluster to run on; by default the one in RAY_ADDRESS, else a Ray of its own on this machine.
        tracking_uri: the MLflow store or server; by default that of the sweep, of MLFLOW_TRACKING_URI, or a local file.
        forked: the name of another sweep in the same storage, from whose trials a new sweep learns.
        insecure: join a Ray cluster on another machine even if it asks for no token.
        allow_code_change: resume even if the code of the trainable has changed since the sweep began.
        retry: the numbers of failed trials to run again with their parameters; empty: all of them.
        listeners: notified of every change while the sweep runs.
        progress: print a line for each trial that ends; by default only in a notebook or an interactive Python.

    Returns:
        What the sweep came to. Values are in the objective's unit, durations in seconds, sizes in bytes.

    Raises:
        InputError: the sweep cannot be run as it is; nothing was started.
        SweeperError: something that sweeper needs is missing or broken; the sweep can be resumed.

    Example:
        >>> from sweeper import load_sweep, run_sweep
        >>> result = run_sweep(load_sweep("search_spaces/quick.yaml"))  # doctest: +SKIP
        >>> result.best.value  # doctest: +SKIP
        0.912
    """
    from sweeper import tracking

    started, place = time.monotonic(), SweepFolder.of(folder, sweep.name)
    uri = tracking.tracking_uri(sweep, tracking_uri)
    checked = preflight(sweep, folder=place, address=address, tracking_uri=uri)
    context = WorkerContext(checked, place, function=pickle_function(str(sweep.trainable)))
    check_cluster(address, insecure=insecure)
    tracking.check_store(uri, sweep.tracking.experiment)
    projection, cleaner = tracking.Projection(sweep, uri), checkpoint_cleaner(context)
    from sweeper.study.compatibility import check_environment, record_start  # not before a refusal: Optuna is slow
    from sweeper.study.open import open_study

    with (
        plain_lines(sweep, progress) as lines,
        StopSignal(sweep.budget.timeout) as stop,
        joined_cluster(address, context, stop, [*listeners, *lines]) as cluster,
        open_study(
            sweep, forked=forked, listeners=[*listeners, *lines, projection, cleaner], stop_reason=stop.requested
        ) as study,
    ):
        facts = check_environment(study, allow_code_change=allow_code_change)
        with claim_folder(place, study):
            context = replace(context, study=study.id or "")
            notes = record_start(study, context.sweep, place, facts, tracking_uri=uri, forked=forked, retry=retry)
            try:
                evaluation = search_and_evaluate(study, context, projection, cluster=cluster, stop=stop)
                outcome = _register(study, evaluation, context, projection)
            except LeaseLostError:
                projection.stop_writing()
                raise
            finally:
                is_delivered = projection.close(timeout=3 if stop.reason else 30)
        problems = outcome.problems if is_delivered else (*outcome.problems, UNDELIVERED)
        return SweepResult.of(
            study,
            place,
            evaluation=evaluation or None,
            champion=outcome.champion,
            stopped=None if study.is_done() else stop.reason,
            stop_detail=stop.detail,
            is_delivered=not problems,
            notes=notes + (problems or log_page(study, outcome, uri, stop, started)) + outcome.notes + study.remarks(),
            seconds=time.monotonic() - started,
            tracking_uri=uri,
        )


def _register(
    study: SweepStudy, evaluation: dict[str, float] | None, context: WorkerContext, projection: Projection
) -> Registered:
    """Log the best model in MLflow, register it if it becomes the champion, and record both in the study."""
    from sweeper.tracking import lost_model_notes, register_best

    if evaluation is not None:
        study.announce("Registering the best model.")
    outcome = register_best(
        study, evaluation, context.folder.champion, projection, context.load_data, study.record_compared
    )
    record_outcome(study, evaluation, outcome.champion)
    lost = lost_model_notes(study, evaluation, context.checkpoints, projection.uri)
    return replace(outcome, notes=outcome.notes + lost)


def search_and_evaluate(
    study: SweepStudy, context: WorkerContext, projection: Projection, *, cluster: Cluster | None, stop: StopSignal
) -> dict[str, float] | None:
    """Run the trials that are left, test the best one on the test set, and put its model into `champion/`.

    A best trial that is still to be confirmed is not tested.

    Args:
        cluster: the cluster that was joined, and is left after the trials; None: they get a Ray of their own.

    Returns:
        The metrics on the test set, empty if the trainable has no `evaluate`; None if there is nothing to register.
    """
    from sweeper.study.compatibility import record_dataset
    from sweeper.tracking import read_evaluation

    can_evaluate = has_evaluation(context.sweep.trainable)
    known = read_evaluation(context.folder.champion, study.facts.get("champion", ""))

    def must_evaluate(best: TrialRecord) -> bool:
        is_new = (known is None or known[0] != best.number) and is_settled(study)
        return can_evaluate and is_new and context.checkpoints(model_source(study, context, best).number).has_any()

    best, found = study.best(), None
    if study.is_exhausted() and not (best and (must_evaluate(best) or models_of(study, context, best)[1])):
        data = context.load_data()
        record_dataset(study, data.facts() if data else None)
        projection.start(study)
        record_missing(study, context)
    else:
        found = _train(study, context, projection, must_evaluate, cluster, stop)
        best = study.best()
        record_missing(study, context)
        clear_others(study, context)
    if study.is_exhausted() and not study.is_done() and stop.reason is None:
        stop.reason = StopReason.BUDGET
        stop.detail = f"its budget is used: {', '.join(map(str, study.spending.amounts()))}"
    is_over = study.is_done() or stop.reason in (StopReason.TIMEOUT, StopReason.BUDGET)
    if best is None or not is_settled(study):
        return None
    if found is None and known is not None and known[0] == best.number:
        return known[1]
    if found is None and (can_evaluate or not is_over):
        return None
    from sweeper.worker.champion import take_champion

    source = model_source(study, context, best)
    if (digest := take_champion(context, best, found or {}, source=source)) is not None:
        study.record_facts({"champion": digest})
    return found or {}


def _train(
    study: SweepStudy, context: WorkerContext, projection: Projection, wanted: Any, cluster: Cluster | None, stop: Any
) -> dict[str, float] | None:
    """Run the trials on Ray; return the metrics of the best one on the test set, if it was evaluated."""
    if cluster is None:
        code = freeze_user_code(context.sweep.trainable, context.folder.code, study.facts["files"])
        context = replace(context, code=code)
    tested: list[int] = []

    def must_evaluate(best: TrialRecord) -> bool:
        import_in_background()  # the search is over, or nearly, and this process is idle while workers compute
        if is_wanted := bool(wanted(best)):
            tested.append(best.number)
        return is_wanted

    with ray_with_data(study, context, cluster=cluster, stop=stop) as context:
        from sweeper.driver.stop import RunControl
        from sweeper.driver.tune import tune_trials

        projection.start(study, first_report_wait_s=projection.FIRST_REPORT_WAIT_S)
        control = RunControl(study, stop, PinnedPath(context.folder.path, "the folder of the sweep"))
        models = partial(models_of, study, context)
        found = tune_trials(study, context, control=control, must_evaluate=must_evaluate, models_of=models)
        if stop.reason is StopReason.TIMEOUT:
            # The timeout limits the search only; evaluating the best trial takes seconds.
            rest = control.past_timeout()
            found = tune_trials(study, context, control=rest, must_evaluate=wanted, models_of=models, search=False)
        best = study.best()
        front = study.leaderboard(front=True) if len(context.sweep.goals) > 1 else []
        for number in {*tested} - {row.number for row in (best, *front) if row is not None}:
            context.checkpoints(number).clear()  # tested early, and beaten since: the test saved its model
        return found
