"""The verbs for sweeps that run elsewhere: submit one, look at it, read what it prints."""

from __future__ import annotations

import json as json_
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.cli import console, options
from sweeper.core.errors import InputError

if TYPE_CHECKING:
    from sweeper.backends import Backend, JobStatus, Submission
    from sweeper.backends.rayjob import Template
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
    tracking_uri: options.RemoteTrackingUri = None,
    folder: options.RemoteFolder = None,
    backend: options.BackendName = "ray",
    address: options.Dashboard = None,
    insecure: options.Insecure = False,
    namespace: options.Namespace = "sweeper",
    context: options.Context = None,
    image: options.Image = None,
    worker_gpus: options.WorkerGpus = 0,
    workers: options.Workers = None,
    dry_run: options.DryRun = False,
    follow: options.Follow = False,
    debug: options.Debug = False,
) -> int:
    """Have a sweep run on a cluster, and leave; again, and it goes on where it was stopped."""
    from sweeper.backends import Submission
    from sweeper.backends.rayjob import Template
    from sweeper.core.urls import problem_of_tracking_uri
    from sweeper.spec import load_sweep

    budget = {"trials": trials, "epochs": epochs, "parallel": parallel, "timeout": timeout}
    flags = options.flags(name=name, cpus=cpus, gpus=gpus, seed=seed, storage=options.sweep_storage(storage), **budget)
    with options.blame_options(flags):
        sweep = load_sweep(space, options.overrides(settings, flags))
    if tracking_uri is not None and (fault := problem_of_tracking_uri(tracking_uri)):
        raise InputError(f"--tracking-uri: {fault}")
    there = (
        _ray_job_options(sweep, folder, tracking_uri)
        if backend == "ray"
        else _kuberay_options(sweep, folder, tracking_uri)
    )
    where = (*there, *(["--insecure"] if insecure else []))
    submission = Submission(sweep.name, json_.dumps(sweep.model_dump(mode="json"), indent=2), where)
    template = Template(namespace=namespace, image=image, gpus=worker_gpus, workers=workers)
    if dry_run:
        _print_objects(template, submission) if backend == "kuberay" else console.emit(submission.text)
        return 0
    chosen = _backend(backend, address, insecure, template, context)
    console.print_note(chosen.submit(submission))
    return _follow(chosen, sweep.name) if follow else 0


def status(
    name: options.Name,
    backend: options.BackendName = "ray",
    address: options.Dashboard = None,
    insecure: options.Insecure = False,
    namespace: options.Namespace = "sweeper",
    context: options.Context = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> int:
    """Show how a submitted sweep stands."""
    found = open_backend(backend, address, insecure, namespace, context).status(name)
    console.emit(json_.dumps(found.__dict__, indent=2) if json else _status_line(found))
    return 0


def logs(
    name: options.Name,
    follow: options.Follow = False,
    backend: options.BackendName = "ray",
    address: options.Dashboard = None,
    insecure: options.Insecure = False,
    namespace: options.Namespace = "sweeper",
    context: options.Context = None,
    debug: options.Debug = False,
) -> int:
    """Show what a submitted sweep prints; with --follow until it ends."""
    chosen = open_backend(backend, address, insecure, namespace, context)
    if follow:
        return _follow(chosen, name)
    for text in chosen.logs(name, follow=False):
        console.emit_text(text)
    return 0


def open_backend(backend: str, address: str | None, insecure: bool, namespace: str, context: str | None) -> Backend:
    """The cluster that a sweep was submitted to."""
    from sweeper.backends.rayjob import Template

    return _backend(backend, address, insecure, Template(namespace=namespace), context)


def _backend(backend: str, address: str | None, insecure: bool, template: Template, context: str | None) -> Backend:
    if backend == "kuberay":
        from sweeper.backends.kuberay import KubeRay

        return KubeRay(template, context)
    if address is None:
        raise InputError(
            "--address: name the dashboard of a Ray cluster, as in --address http://HEAD:8265; "
            "for Kubernetes say --backend kuberay"
        )
    from sweeper.backends.ray_jobs import RayJobs

    return RayJobs(address, insecure=insecure)


def _ray_job_options(sweep: Sweep, folder: Path | str | None, tracking_uri: str | None) -> list[str]:
    """Where a job of a Ray cluster keeps things.

    Raises:
        InputError: what is to outlive the job would be lost with it.
    """
    if sweep.storage.startswith("sqlite") and not sweep.storage.startswith("sqlite:////"):
        raise InputError(
            f"storage: {sweep.storage} would be a file of the job, and be lost with it. Name a server: --storage "
            "postgresql+psycopg://HOST/NAME, --storage '${env:SWEEPER_STORAGE}' if the cluster has such a variable, or "
            "the absolute path of a file on a disk of the head: --storage sqlite:////PATH/sweeper.db"
        )
    if folder is None or (isinstance(folder, Path) and not folder.is_absolute()):
        raise InputError(
            f"--dir: name the absolute path of a folder that all nodes share, as in --dir /mnt/sweeps/{sweep.name}, or "
            f"a URL that all reach, as in --dir s3://BUCKET/{sweep.name}"
        )
    # Without a server of its own the sweep would keep MLflow's store among the files of the job.
    tracking = tracking_uri or sweep.tracking.uri or "${env:MLFLOW_TRACKING_URI}"
    return ["--dir", str(folder), "--tracking-uri", tracking]


def _kuberay_options(sweep: Sweep, folder: Path | str | None, tracking_uri: str | None) -> list[str]:
    """Where a RayJob keeps things, as far as its manifest does not say it."""
    from sweeper.core.user_code import user_code_root

    if (root := user_code_root(sweep.trainable)) is not None:
        console.print_note(f"the code of {sweep.trainable} in {root} has to be in the image as well")
    options_there = ["--dir", str(folder)] if folder else []
    return options_there + (["--tracking-uri", tracking_uri] if tracking_uri else [])


def _print_objects(template: Template, submission: Submission) -> None:
    from ruamel.yaml import YAML
    from ruamel.yaml.scalarstring import walk_tree

    objects = template.render(submission)
    walk_tree(objects)  # text of several lines is shown as such
    writer = YAML()
    writer.default_flow_style, writer.width = False, 1000
    writer.dump_all(objects, sys.stdout)


def _follow(chosen: Backend, name: str) -> int:
    try:
        for text in chosen.logs(name, follow=True):
            console.emit_text(text)
    except KeyboardInterrupt:
        console.print_note(f"{name} goes on without an eye on it; look again with: sweeper logs {name} --follow")
        return 130
    found = chosen.status(name)
    console.print_note(_status_line(found))
    code = found.details.get("exit code")
    return int(code) if code is not None and found.state == "failed" else _EXIT_CODES[found.state]


def _status_line(found: JobStatus) -> str:
    details = ", ".join(f"{key} {value}" for key, value in found.details.items())
    message = f": {found.message}" if found.message else ""
    return f"{found.name} {found.state} (attempt {found.attempt}, {details}){message}"
