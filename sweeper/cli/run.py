"""The verbs that run a sweep, and those that control it from another terminal."""

from __future__ import annotations

import gc
import shlex
import sys
from typing import TYPE_CHECKING, Any

from sweeper.cli import options, report, submit
from sweeper.core.errors import InputError, SweeperError, TrackingError

if TYPE_CHECKING:
    from sweeper.run import SweepResult
    from sweeper.spec import Sweep
    from sweeper.study.commands import Command


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
    folder: options.Folder = None,
    json: options.Json = False,
) -> int:
    """Run a sweep; the same command resumes one that was stopped."""
    budget = {"trials": trials, "epochs": epochs, "parallel": parallel, "timeout": timeout}
    flags = options.by_key(name=name, cpus=cpus, gpus=gpus, seed=seed, storage=options.sweep_storage(storage), **budget)
    sweep = options.load_with_flags(space, settings, flags)
    forked = sweep.name if fork is not None else None
    if fork is not None:
        sweep = options.load_with_flags(space, settings, {**flags, "name": fork}, name="--fork")
    where = {"folder": folder, "address": address, "insecure": insecure, "tracking_uri": tracking_uri}
    where |= {"allow_code_change": allow_code_change}
    return _run(sweep, json=json, forked=forked, **where)


def resume(
    name: options.Name,
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
    """Resume a stopped sweep by its name; with --trials N, extend one that is done."""
    from sweeper.core.urls import expand, problem_of_database_url
    from sweeper.study.open import read_study

    url = options.sweep_storage(storage) or options.DEFAULT_STORAGE
    if problem := problem_of_database_url(url):
        raise InputError(f"--storage: {problem}")
    study = read_study(name, expand(url))
    flags = options.by_key(trials=trials, parallel=parallel, timeout=timeout, cpus=cpus, gpus=gpus)
    with options.blame_options(flags):
        sweep = study.sweep.changed({**options.overrides(settings, flags), "storage": options.quoted(url)})
    uri = tracking_uri or study.facts.get("tracking_uri")
    where = {"folder": study.folder, "address": address, "insecure": insecure, "tracking_uri": uri}
    where |= {"allow_code_change": allow_code_change}
    return _run(sweep, json=json, **where)


def stop(
    name: options.Name,
    storage: options.Storage = options.DEFAULT_STORAGE,
    backend: options.BackendName = "ray",
    dashboard: options.Dashboard = None,
    insecure: options.Insecure = False,
    namespace: options.Namespace = "sweeper",
    context: options.Context = None,
) -> None:
    """Stop a running sweep and wait until it has stopped.

    With --dashboard or --backend, stop a submitted sweep, otherwise one on this machine.
    """
    if submit.is_submitted(backend, dashboard):
        from sweeper.cli import console

        chosen = submit.backend_from(backend, dashboard, insecure=insecure, context=context, namespace=namespace)
        chosen.stop(name)
        console.print_note(f"{name} has stopped. Submit it again to resume it.")
    else:
        _send(name, storage, "stop", f"{name} has stopped. Resume with: {_command('resume', name)}")


def pause(name: options.Name, storage: options.Storage = options.DEFAULT_STORAGE) -> None:
    """Pause a running sweep: its workers wait at their next report."""
    _send(name, storage, "pause", f"{name} is paused. Continue with: {_command('unpause', name)}")


def unpause(name: options.Name, storage: options.Storage = options.DEFAULT_STORAGE) -> None:
    """Continue a paused sweep."""
    _send(name, storage, None, f"{name} continues.")


def _send(name: str, storage: str, command: Command | None, done: str) -> None:
    from sweeper.cli import console
    from sweeper.study.open import send_command

    if not send_command(name, storage, command):
        raise SweeperError(
            f"sweep {name!r} did not react within 60 s. Its process may be suspended; see `sweeper list`"
        )
    console.print_note(done)


def _command(verb: str, name: str) -> str:
    """Return the command to run next, with `--storage` as it was typed: it may hold references."""
    typed = sys.argv[1:]
    storage = [part for at, part in enumerate(typed) if "--storage" in (part.partition("=")[0], *typed[at - 1 : at])]
    return shlex.join(["sweeper", verb, name, *storage])


def _run(sweep: Sweep, *, json: bool, **where: Any) -> int:
    """Run a sweep with a live display; return the exit code."""
    from sweeper.cli import console
    from sweeper.cli.live import LiveProgress

    gc.set_threshold(50_000)  # most objects come from imports and stay; scanning them often costs time for nothing
    for warning in sweep.warnings():
        console.print_note(warning)
    with LiveProgress(sweep) as progress:
        progress.on_phase("loading Optuna, Ray and MLflow")
        from sweeper.run import run_sweep

        result = run_sweep(sweep, listeners=[progress], **where)
    for note in (*result.notes, *_proposals(result)):
        console.print_note(note)
    if result.stopped:
        console.print_note(f"Progress is saved. Resume with: {shlex.join(['sweeper', *sys.argv[1:]])}")
    if json:
        report.emit(report.to_json(report.result_document(result)))
    else:
        console.print_result(result)
    gc.freeze()  # otherwise Python scans all objects once more when it exits: a second, with MLflow
    return exit_code(result)


def _proposals(result: SweepResult) -> list[str]:
    """Return what to do about a sweep that has used all its trials and did not end any of them now."""
    trials = sum(result.counts.values())
    if result.stopped or result.ended_now or not trials:
        return []
    more = "" if result.sweep.sampler.type == "grid" else f"run {trials} more with --trials {2 * trials}, or "
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
