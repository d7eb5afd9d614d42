"""The verbs that run a sweep: begin it, resume it, run its failed trials again."""

from __future__ import annotations

import gc
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.cli import options, report
from sweeper.cli.check.plan import ShowPlan
from sweeper.cli.look.show import chosen_sweep
from sweeper.cli.trials import AskedTrials, started_trials
from sweeper.core.errors import InputError, StopReason, TrackingError
from sweeper.core.text import format_list, tally

if TYPE_CHECKING:
    from sweeper.analysis.result import SweepResult
    from sweeper.spec import Sweep
    from sweeper.study.view import StudyView


def run(
    space: options.File,
    settings: options.Settings = None,
    name: options.SweepName = None,
    fork: options.Fork = None,
    trials: options.Trials = None,
    epochs: options.Epochs = None,
    parallel: options.Parallel = None,
    timeout: options.Timeout = None,
    cpus: options.Cpus = None,
    gpus: options.Gpus = None,
    seed: options.Seed = None,
    storage: options.SweepStorage = None,
    tracking_uri: options.TrackingUri = None,
    address: options.Address = None,
    insecure: options.Insecure = False,
    allow_code_change: options.AllowCodeChange = False,
    retry_failed: options.RetryFailed = False,
    folder: options.Folder = None,
    plan: ShowPlan = False,
    json: options.Json = False,
) -> int:
    """Run a sweep; the same command resumes one that was stopped."""
    _check_submitter()
    asked = AskedTrials.of(trials, settings)
    budget = {"trials": asked.total, "epochs": epochs, "parallel": parallel, "timeout": timeout}
    flags = options.by_key(name=name, cpus=cpus, gpus=gpus, seed=seed, storage=options.sweep_storage(storage), **budget)
    sweep = options.load_with_flags(space, asked.settings, flags)
    forked = sweep.name if fork is not None else None
    if fork is not None:
        sweep = options.load_with_flags(space, asked.settings, {**flags, "name": fork}, name="--fork")
    sweep = asked.applied_to(sweep, lambda: started_trials(sweep))
    where: dict[str, Any] = {"folder": folder, "address": address, "insecure": insecure, "tracking_uri": tracking_uri}
    where |= {"allow_code_change": allow_code_change, "retry": () if retry_failed else None}
    is_repeatable = asked.added is None and not retry_failed
    if plan:
        from sweeper.cli.check.plan import note_plan

        note_plan(sweep, address)
    return _run(sweep, json=json, is_repeatable=is_repeatable, forked=forked, **where)


def _check_submitter() -> None:
    """Check that the sweeper that submitted this run from outside of its image is of the same version.

    Raises:
        InputError: it is of another one, whose files and options this one may not know.
    """
    from sweeper.core.environment import versions

    submitter, own = os.environ.get("SWEEPER_SUBMITTED_BY"), versions(["sweeper"]).get("sweeper")
    if submitter and submitter != own:
        raise InputError(
            f"the image holds sweeper {own}, but sweeper {submitter} submitted the sweep. Name an image of {submitter} "
            f"with --image (k8s/Dockerfile builds one), or submit with sweeper {own}"
        )


def resume(
    name: options.OptionalName = None,
    settings: options.Settings = None,
    trials: options.Trials = None,
    parallel: options.Parallel = None,
    timeout: options.Timeout = None,
    cpus: options.Cpus = None,
    gpus: options.Gpus = None,
    storage: options.SweepStorage = None,
    tracking_uri: options.TrackingUri = None,
    address: options.Address = None,
    insecure: options.Insecure = False,
    allow_code_change: options.AllowCodeChange = False,
    retry_failed: options.RetryFailed = False,
    json: options.Json = False,
) -> int:
    """Resume a stopped sweep by its name; with --trials N or +N, extend one that is done."""
    flags = {"parallel": parallel, "timeout": timeout, "cpus": cpus, "gpus": gpus}
    where: dict[str, Any] = {"address": address, "insecure": insecure, "allow_code_change": allow_code_change}
    where |= {"retry": () if retry_failed else None, "tracking_uri": tracking_uri}
    return resume_stored(name, storage, AskedTrials.of(trials, settings), flags, json=json, **where)


def retry(
    name: options.Name,
    numbers: options.TrialNumbers = None,
    settings: options.Settings = None,
    trials: options.Trials = None,
    parallel: options.Parallel = None,
    timeout: options.Timeout = None,
    cpus: options.Cpus = None,
    gpus: options.Gpus = None,
    storage: options.SweepStorage = None,
    tracking_uri: options.TrackingUri = None,
    address: options.Address = None,
    insecure: options.Insecure = False,
    allow_code_change: options.AllowCodeChange = False,
    json: options.Json = False,
) -> int:
    """Run failed trials again, with their numbers and parameters, and resume the sweep."""
    from sweeper.analysis.names import parse_target

    name, chosen = parse_target(name, [str(number) for number in numbers or ()])
    flags = {"parallel": parallel, "timeout": timeout, "cpus": cpus, "gpus": gpus}
    where: dict[str, Any] = {"address": address, "insecure": insecure, "allow_code_change": allow_code_change}
    where |= {"retry": tuple(chosen), "must_retry": True, "tracking_uri": tracking_uri}
    return resume_stored(name, storage, AskedTrials.of(trials, settings), flags, json=json, **where)


def resume_stored(
    name: str | None,
    storage: str | None,
    asked: AskedTrials,
    flags: dict[str, str | None],
    *,
    json: bool,
    tracking_uri: str | None,
    must_retry: bool = False,
    confirm: Callable[[StudyView], str] | None = None,
    **where: Any,
) -> int:
    """Run a sweep as its study has it, with changes.

    Args:
        flags: options and their values.
        must_retry: refuse a sweep without a failed trial.
        confirm: returns the value of `confirm` for this study.
        where: arguments of `run_sweep`.
    """
    from sweeper.core.urls import expand, problem_of_database_url
    from sweeper.study.open import read_study
    from sweeper.study.retry import failed_trials

    url = options.sweep_storage(storage) or options.DEFAULT_STORAGE
    if problem := problem_of_database_url(url):
        raise InputError(f"--storage: {problem}")
    study = read_study(chosen_sweep(name, expand(url)), expand(url))
    name = study.name
    if must_retry and not failed_trials(name, study.rows(with_fresh=True), where["retry"]):
        states = [row.state for row in study.rows()]
        counted = tally({state: states.count(state) for state in states})
        raise InputError(f"no trial of sweep {name!r} has failed, so there is nothing to retry: {counted}")
    keys = options.by_key(trials=asked.total, **flags)
    keys |= {} if confirm is None else {"confirm": confirm(study)}
    with options.blame_options(keys, confirm="confirm"):
        sweep = study.sweep.changed({**options.overrides(asked.settings, keys), "storage": options.quoted(url)})
    sweep = asked.applied_to(sweep, lambda: len(study.rows()))
    where |= {"folder": study.folder, "tracking_uri": tracking_uri or study.facts.get("tracking_uri")}
    is_repeatable = asked.added is None and where["retry"] is None
    return _run(sweep, json=json, is_repeatable=is_repeatable, **where)


MAX_LISTED_REASONS = 5
"""Different reasons of failures that are printed when a sweep ends."""


def _run(sweep: Sweep, *, json: bool, is_repeatable: bool, **where: Any) -> int:
    """Run a sweep with a live display; return the exit code.

    Args:
        is_repeatable: whether the same command resumes the sweep, and asks for nothing more.
        where: arguments of `run_sweep`.
    """
    from sweeper.cli import console
    from sweeper.cli.live import live_view

    gc.set_threshold(50_000)  # most objects come from imports and stay; scanning them often costs time for nothing
    for warning in sweep.warnings():
        console.print_note(warning)
    with live_view(sweep, where["tracking_uri"]) as progress:
        progress.on_phase("loading Optuna, Ray and MLflow")
        from sweeper.run import run_sweep

        gc.freeze()  # `driver/connection/cluster.py` learns from it that this process ends with the sweep
        result = run_sweep(sweep, listeners=[progress], **where)
    for note in (*result.notes, *_failures(result), *_proposals(result)):
        console.print_note(note)
    if result.stopped:
        again = shlex.join(["sweeper", *sys.argv[1:]]) if is_repeatable else _command("resume", sweep, where["address"])
        if result.stopped is StopReason.BUDGET:
            raised = [f" --set {one.key}={2 * one.limit:g}" for one in result.used if one.is_nearly_used]
            again = _command("resume", sweep, where["address"]) + "".join(raised)
        console.print_note(f"Progress is saved. Resume with: {again}")
    if json:
        report.emit(report.to_json(report.result_document(result)))
    else:
        console.print_result(result)
    gc.freeze()  # otherwise Python scans all objects once more when it exits: a second, with MLflow
    return exit_code(result)


def _failures(result: SweepResult) -> list[str]:
    """Return which trials failed and why, where the traceback is, and how to run them again."""
    from sweeper.study.retry import group_failures

    groups = group_failures(result.leaderboard)
    if not groups:
        return []
    notes = []
    for group in groups[:MAX_LISTED_REASONS]:
        count = "1 trial" if len(group) == 1 else f"{len(group)} trials"
        numbers = format_list([str(row.number) for row in group])
        notes.append(f"{count} failed ({numbers}): {group[0].reason or 'unknown reason'}")
        traceback = Path(result.folder, "trials", f"{group[0].number:04d}", "error.txt")
        if traceback.is_file():
            notes[-1] += f". Traceback: {traceback}"
    if rest := groups[MAX_LISTED_REASONS:]:
        notes.append(f"{sum(map(len, rest))} more trials failed for {len(rest)} other reasons")
    again = _command("retry", result.sweep)
    return [*notes, f"Once the cause is corrected, run the failed trials again with: {again}"]


def _command(verb: str, sweep: Sweep, address: str | None = None) -> str:
    """Return a command about a sweep, with the options that it needs to find it."""
    is_default = sweep.storage in (options.DEFAULT_STORAGE, "${env:SWEEPER_STORAGE}")
    storage = [] if is_default else ["--storage", sweep.storage]
    return shlex.join(["sweeper", verb, sweep.name, *storage, *(["--address", address] if address else [])])


def _proposals(result: SweepResult) -> list[str]:
    """Return what to do about a sweep that has used all its trials and did not end any of them now."""
    trials = sum(result.counts.values())
    if result.stopped or result.ended_now or result.confirmation or not trials:
        return []
    more = "" if result.sweep.chosen_sampler.type == "grid" else f"run {trials} more with --trials +{trials}, or "
    return [
        f"All {trials} trials of {result.name} have ended, so none was run; {more}start another sweep with --name NEW"
    ]


def exit_code(result: SweepResult) -> int:
    """Return the exit code of a run that ended without an error."""
    if result.stopped is not None:
        return result.stopped.exit_code
    if not result.counts.get("COMPLETE"):
        return 1
    if not result.is_delivered:
        return TrackingError.exit_code
    return 3 if result.counts.get("FAIL") else 0
