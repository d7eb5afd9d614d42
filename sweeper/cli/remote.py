"""The verbs for sweeps that run elsewhere: submit one, look at it, read what it prints."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.cli import console, options
from sweeper.errors import InputError

if TYPE_CHECKING:
    from sweeper.backends import Backend, JobStatus
    from sweeper.spec import Sweep

_EXIT_CODES = {"succeeded": 0, "stopped": 0, "failed": 1}


def submit(
    space: options.File,
    settings: options.Settings = None,
    name: options.SweepName = None,
    trials: options.Trials = None,
    epochs: options.Epochs = None,
    parallel: options.Parallel = None,
    timeout: options.Timeout = None,
    cpus: options.Cpus = None,
    gpus: options.Gpus = None,
    seed: options.Seed = None,
    storage: options.SweepStorage = None,
    tracking_uri: options.TrackingThere = "${env:MLFLOW_TRACKING_URI}",
    folder: options.Folder = None,
    address: options.Head = None,
    insecure: options.Insecure = False,
    follow: options.Follow = False,
    debug: options.Debug = False,
) -> int:
    """Have a sweep run on a cluster, and leave; again, and it goes on where it was stopped."""
    from sweeper.backends import Submission
    from sweeper.spec import load_sweep
    from sweeper.spec.urls import fault_of_tracking

    flags = {
        "name": name,
        "budget.trials": trials,
        "budget.epochs": epochs,
        "budget.parallel": parallel,
        "budget.timeout": timeout,
        "resources.cpus": cpus,
        "resources.gpus": gpus,
        "seed": seed,
        "storage": options.sweep_storage(storage),
    }
    with options.naming(flags):
        sweep = load_sweep(space, options.overrides(settings, flags))
    if fault := fault_of_tracking(tracking_uri):
        raise InputError(f"--tracking-uri: {fault}")
    there = _folder_there(sweep, folder)
    where = ["--dir", str(there), "--tracking-uri", tracking_uri, *(["--insecure"] if insecure else [])]
    text = json_.dumps(sweep.model_dump(mode="json"), indent=2)
    chosen = backend(address, insecure)
    console.print_note(chosen.submit(Submission(sweep.name, text, tuple(where))))
    return _follow(chosen, sweep.name) if follow else 0


def status(
    name: options.Name,
    address: options.Head = None,
    insecure: options.Insecure = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> int:
    """Show how a submitted sweep stands."""
    found = backend(address, insecure).status(name)
    if json:
        console.emit(json_.dumps({**found.__dict__}, indent=2))
    else:
        console.emit(_line(found))
    return 0


def logs(
    name: options.Name,
    follow: options.Follow = False,
    address: options.Head = None,
    insecure: options.Insecure = False,
    debug: options.Debug = False,
) -> int:
    """Show what a submitted sweep prints; with --follow until it ends."""
    chosen = backend(address, insecure)
    if follow:
        return _follow(chosen, name)
    for text in chosen.logs(name, follow=False):
        console.emit_text(text)
    return 0


def backend(address: str | None, insecure: bool) -> Backend:
    if address is None:
        raise InputError("--address: name the dashboard of a Ray cluster, as in --address http://HEAD:8265")
    from sweeper.backends.ray_jobs import RayJobs

    return RayJobs(address, insecure=insecure)


def _folder_there(sweep: Sweep, folder: Path | None) -> Path:
    """The sweep's folder on the cluster.

    Raises:
        InputError: what is to outlive the job would be lost with it.
    """
    if sweep.storage.startswith("sqlite") and not sweep.storage.startswith("sqlite:////"):
        raise InputError(
            f"storage: {sweep.storage} would be a file of the job, and be lost with it. Name a server: --storage "
            "postgresql+psycopg://HOST/NAME, --storage '${env:SWEEPER_STORAGE}' if the cluster has such a variable, or "
            "the absolute path of a file on a disk of the head: --storage sqlite:////PATH/sweeper.db"
        )
    if folder is None or not folder.is_absolute():
        raise InputError(
            f"--dir: name the absolute path of a folder that all nodes share, as in --dir /mnt/sweeps/{sweep.name}"
        )
    return folder


def _follow(chosen: Backend, name: str) -> int:
    try:
        for text in chosen.logs(name, follow=True):
            console.emit_text(text)
    except KeyboardInterrupt:
        console.print_note(f"{name} goes on without an eye on it; look again with: sweeper logs {name} --follow")
        return 130
    found = chosen.status(name)
    console.print_note(_line(found))
    code = found.details.get("exit code")
    return int(code) if code is not None and found.state == "failed" else _EXIT_CODES[found.state]


def _line(found: JobStatus) -> str:
    details = ", ".join(f"{key} {value}" for key, value in found.details.items())
    message = f": {found.message}" if found.message else ""
    return f"{found.name} {found.state} (attempt {found.attempt}, {details}){message}"
