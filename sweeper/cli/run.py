"""The verbs that run a sweep, and those that steer it from another terminal."""

from __future__ import annotations

import gc
import shlex
import sys
from typing import TYPE_CHECKING, Any

from sweeper.cli import console, options, report, submit
from sweeper.cli.live import LiveProgress
from sweeper.core.errors import InputError, SweeperError

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
    debug: options.Debug = False,
) -> int:
    """Run a sweep; the same command goes on with one that was stopped."""
    from sweeper.spec import load_sweep

    budget = {"trials": trials, "epochs": epochs, "parallel": parallel, "timeout": timeout}
    flags = options.flags(name=name, cpus=cpus, gpus=gpus, seed=seed, storage=options.sweep_storage(storage), **budget)
    with options.blame_options(flags):
        sweep = load_sweep(space, options.overrides(settings, flags))
    forked = sweep.name if fork is not None else None
    if fork is not None:
        with options.blame_options({"name": fork}, name="--fork"):
            sweep = load_sweep(space, options.overrides(settings, {**flags, "name": fork}))
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
    debug: options.Debug = False,
) -> int:
    """Go on with a sweep that was stopped; needs no file. More --trials extend one that is done."""
    from sweeper.core.urls import expand, problem_of_database_url
    from sweeper.study.open import read_study

    url = options.sweep_storage(storage) or options.DEFAULT_STORAGE
    if fault := problem_of_database_url(url):
        raise InputError(f"--storage: {fault}")
    study = read_study(name, expand(url))
    flags = options.flags(trials=trials, parallel=parallel, timeout=timeout, cpus=cpus, gpus=gpus)
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
    address: options.Dashboard = None,
    insecure: options.Insecure = False,
    namespace: options.Namespace = "sweeper",
    context: options.Context = None,
    debug: options.Debug = False,
) -> None:
    """Stop a running sweep in good order, from another terminal; with --address or --backend, one submitted."""
    if address is not None or backend != "ray":
        submit.open_backend(backend, address, insecure, namespace, context).stop(name)
        console.print_note(f"{name} has stopped; submit it again to go on")
        return
    _send(name, storage, "stop", f"{name} has stopped; go on with: {_command('resume', name)}")


def pause(
    name: options.Name,
    storage: options.Storage = options.DEFAULT_STORAGE,
    debug: options.Debug = False,
) -> None:
    """Have a running sweep wait; its trials keep their places and compute nothing after their next report."""
    _send(name, storage, "pause", f"{name} is paused; go on with: {_command('continue', name)}")


def unpause(
    name: options.Name,
    storage: options.Storage = options.DEFAULT_STORAGE,
    debug: options.Debug = False,
) -> None:
    """Have a paused sweep go on."""
    _send(name, storage, None, f"{name} goes on")


def _send(name: str, storage: str, order: Command | None, done: str) -> None:
    from sweeper.study.open import send_command

    if not send_command(name, storage, order):
        raise SweeperError(f"sweep {name!r} does not answer; is its process stopped? See: sweeper list")
    console.print_note(done)


def _command(verb: str, name: str) -> str:
    """The command that comes next, with the storage as it was typed for this one: it may hold references."""
    typed = sys.argv[1:]
    storage = [part for at, part in enumerate(typed) if "--storage" in (part.partition("=")[0], *typed[at - 1 : at])]
    return shlex.join(["sweeper", verb, name, *storage])


def _run(sweep: Sweep, *, json: bool, **where: Any) -> int:
    """Run a sweep under the eyes of whoever started it; the exit code."""
    gc.set_threshold(50_000)  # imports make the most objects by far, and those stay: not worth looking at so often
    for warning in sweep.warnings():
        console.print_note(warning)
    with LiveProgress(sweep) as progress:
        progress.on_phase("loading Optuna, Ray and MLflow")
        from sweeper.run import run_sweep

        result = run_sweep(sweep, listeners=[progress], **where)
    for note in result.notes:
        console.print_note(note)
    if result.stopped:
        console.print_note(f"nothing is lost; go on with: {shlex.join(['sweeper', *sys.argv[1:]])}")
    if json:
        console.emit(report.to_json(report.result_document(result)))
    else:
        console.print_result(result)
    gc.freeze()  # or Python would look at everything once more before it ends: a second, with MLflow
    return exit_code(result)


def exit_code(result: SweepResult) -> int:
    """What `run` exits with when it comes to its end."""
    if result.stopped is not None:
        return result.stopped.exit_code
    if not result.counts.get("COMPLETE"):
        return 1
    return 3 if result.counts.get("FAIL") else 0
