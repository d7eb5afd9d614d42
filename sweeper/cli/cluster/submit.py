"""The verbs for sweeps on a cluster: submit one, ask for its state, read its output."""

from __future__ import annotations

import json as json_
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.cli import options, report
from sweeper.cli.look.output import show_output
from sweeper.cli.look.show import chosen_sweep
from sweeper.cli.trials import refuse_added
from sweeper.core.errors import InputError
from sweeper.core.text import clean, metric, tally

if TYPE_CHECKING:
    from sweeper.backends import Backend, JobStatus, Submission
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
    dashboard: options.Dashboard = None,
    insecure: options.Insecure = False,
    namespace: options.Namespace = "sweeper",
    context: options.Context = None,
    image: options.Image = None,
    worker_gpus: options.WorkerGpus = 0,
    workers: options.Workers = None,
    dry_run: options.DryRun = False,
    follow: options.Follow = False,
) -> int:
    """Submit a sweep to a cluster; submitting it again resumes it."""
    from sweeper.cli import console

    refuse_added(trials, settings)
    budget = {"trials": trials, "epochs": epochs, "parallel": parallel, "timeout": timeout}
    flags = options.by_key(name=name, cpus=cpus, gpus=gpus, seed=seed, storage=options.sweep_storage(storage), **budget)
    sweep = options.load_with_flags(space, settings, flags)
    submission = submission_of(sweep, backend, folder=folder, tracking_uri=tracking_uri, insecure=insecure)
    pods = {"namespace": namespace, "image": image, "gpus": worker_gpus, "workers": workers}
    if dry_run:
        print_dry_run(submission, backend, **pods)
        return 0
    chosen = backend_from(backend, dashboard, insecure=insecure, context=context, **pods)
    console.print_note(chosen.submit(submission))
    return _follow(chosen, sweep.name) if follow else 0


def status(
    name: options.OptionalName = None,
    storage: options.Storage = options.DEFAULT_STORAGE,
    backend: options.BackendName = "ray",
    dashboard: options.Dashboard = None,
    insecure: options.Insecure = False,
    namespace: options.Namespace = "sweeper",
    context: options.Context = None,
    json: options.Json = False,
) -> int:
    """Print the state of a sweep.

    With --dashboard or --backend, print that of a submitted sweep, otherwise that of one on this machine.
    """
    document: dict[str, Any]
    if is_submitted(backend, dashboard):
        if name is None:
            raise InputError("name the submitted sweep: sweeper status NAME")
        job = backend_from(backend, dashboard, insecure=insecure, context=context, namespace=namespace).status(name)
        document, line = job.__dict__, _job_line(job)
    else:
        document = _local_status(chosen_sweep(name, storage), storage)
        line = _local_line(document)
    report.emit(report.to_json(document) if json else line)
    return 0


def logs(
    name: options.OptionalName = None,
    trial: options.OneTrial = None,
    follow: options.Follow = False,
    storage: options.Storage = options.DEFAULT_STORAGE,
    backend: options.BackendName = "ray",
    dashboard: options.Dashboard = None,
    insecure: options.Insecure = False,
    namespace: options.Namespace = "sweeper",
    context: options.Context = None,
) -> int:
    """Print what a trial has printed.

    With --dashboard or --backend, print the output of a submitted sweep.
    """
    if not is_submitted(backend, dashboard):
        from sweeper.analysis.names import parse_target

        chosen_name, numbers = parse_target(chosen_sweep(name, storage), [] if trial is None else [trial])
        try:
            show_output(chosen_name, next(iter(numbers), None), storage, follow=follow)
        except KeyboardInterrupt:
            return 130
        return 0
    if name is None:
        raise InputError("NAME: name the submitted sweep; the newest is known only of sweeps on this machine")
    if trial is not None:
        raise InputError("TRIAL: a cluster sends the output of the whole sweep only; leave it out")
    chosen = backend_from(backend, dashboard, insecure=insecure, context=context, namespace=namespace)
    if follow:
        return _follow(chosen, name)
    for text in chosen.logs(name, follow=False):
        report.emit_text(text)
    return 0


def is_submitted(backend: str, dashboard: str | None) -> bool:
    """Return whether the options name a cluster, and not this machine."""
    return dashboard is not None or backend != "ray"


def backend_from(backend: str, dashboard: str | None, *, insecure: bool, context: str | None, **pods: Any) -> Backend:
    """Return the cluster that the options name.

    Args:
        pods: the fields of `Template` that the options set, for Kubernetes.

    Raises:
        InputError: they name no cluster.
    """
    if backend == "kuberay":
        from sweeper.backends.kuberay import KubeRay
        from sweeper.backends.rayjob import Template

        return KubeRay(Template(**pods), context)
    if dashboard is None:
        raise InputError(
            "--dashboard: name the dashboard of a Ray cluster, as in --dashboard http://HEAD:8265; "
            "for Kubernetes use --backend kuberay"
        )
    from sweeper.backends.ray_jobs import RayJobs

    return RayJobs(dashboard, insecure=insecure)


def submission_of(
    sweep: Sweep, backend: str, *, folder: Path | str | None, tracking_uri: str | None, insecure: bool
) -> Submission:
    """Build what is submitted: the sweep, and the options of `sweeper run` on the cluster.

    Raises:
        InputError: an option is wrong, or something that must outlive the job would be lost with it.
    """
    from sweeper.backends import Submission
    from sweeper.core.urls import problem_of_tracking_uri

    if tracking_uri is not None and (problem := problem_of_tracking_uri(tracking_uri)):
        raise InputError(f"--tracking-uri: {problem}")
    run_options = _kuberay_options if backend == "kuberay" else _ray_job_options
    where = (*run_options(sweep, folder, tracking_uri), *(["--insecure"] if insecure else []))
    text = json_.dumps(sweep.model_dump(mode="json"), indent=2)
    return Submission(sweep.name, text, where, code=sweep.trainable)


def print_dry_run(submission: Submission, backend: str, **pods: Any) -> None:
    """Print the sweep that would be submitted, or the Kubernetes objects."""
    if backend != "kuberay":
        report.emit(submission.text)
        return
    from ruamel.yaml import YAML
    from ruamel.yaml.scalarstring import walk_tree

    from sweeper.backends.rayjob import Template

    objects = Template(**pods).render(submission)
    walk_tree(objects)  # text of several lines becomes a block
    writer = YAML()
    writer.default_flow_style, writer.width = False, 1000
    writer.dump_all(objects, sys.stdout)


def _ray_job_options(sweep: Sweep, folder: Path | str | None, tracking_uri: str | None) -> list[str]:
    """Return the options of `sweeper run` in a job of a Ray cluster.

    Raises:
        InputError: something that must outlive the job would be lost with it.
    """
    if sweep.storage.startswith("sqlite") and not sweep.storage.startswith("sqlite:////"):
        raise InputError(
            f"storage: {sweep.storage} would be a file of the job and be lost with it. Name a server: --storage "
            "postgresql+psycopg://HOST/NAME, --storage '${env:SWEEPER_STORAGE}' if the cluster has such a variable, or "
            "the absolute path of a file on a disk of the head: --storage sqlite:////PATH/sweeper.db"
        )
    if folder is None or (isinstance(folder, Path) and not folder.is_absolute()):
        raise InputError(
            f"--dir: name the absolute path of a folder that all nodes share, as in --dir /mnt/sweeps/{sweep.name}, or "
            f"a URL that all of them reach, as in --dir s3://BUCKET/{sweep.name}"
        )
    # Without a server, MLflow's store would be a file of the job and be lost with it.
    tracking = tracking_uri or sweep.tracking.uri or "${env:MLFLOW_TRACKING_URI}"
    return ["--dir", str(folder), "--tracking-uri", tracking]


def _kuberay_options(sweep: Sweep, folder: Path | str | None, tracking_uri: str | None) -> list[str]:
    """Return the options of `sweeper run` in a RayJob, where they differ from those of its manifest."""
    from sweeper.core.code.user_code import user_code_root

    if (root := user_code_root(sweep.trainable)) is not None:
        from sweeper.cli import console

        console.print_note(f"The code of {sweep.trainable} in {root} is not sent. It must be in the image as well.")
    directory = ["--dir", str(folder)] if folder else []
    return directory + (["--tracking-uri", tracking_uri] if tracking_uri else [])


def _follow(chosen: Backend, name: str) -> int:
    """Print the output of a submitted sweep until it ends; return its exit code."""
    from sweeper.cli import console

    try:
        for text in chosen.logs(name, follow=True):
            report.emit_text(text)
    except KeyboardInterrupt:
        console.print_note(
            f"{name} keeps running on the cluster. Follow it again: sweeper logs {name} --follow, with the same options"
        )
        return 130
    job = chosen.status(name)
    console.print_note(_job_line(job))
    code = job.details.get("exit code")
    return int(code) if code is not None and job.state == "failed" else _EXIT_CODES[job.state]


def _job_line(job: JobStatus) -> str:
    details = ", ".join(f"{key} {value}" for key, value in job.details.items())
    message = f": {job.message}" if job.message else ""
    return f"{job.name} {job.state} (attempt {job.attempt}, {details}){message}"


def _local_status(name: str, storage: str) -> dict[str, Any]:
    from sweeper.study.open import list_sweeps, read_study

    study = read_study(name, storage)
    (summary,) = (summary for summary in list_sweeps(storage) if summary.name == name)
    return report.status_document(study, summary)


def _local_line(document: dict[str, Any]) -> str:
    from sweeper.analysis.trials import counts_as_seen

    best = document["best"]
    counts = counts_as_seen(document["counts"], is_running=not document["interrupted"])
    ended = sum(count for state, count in document["counts"].items() if state != "RUNNING")
    progress = f"{ended} of {document['trials']} trials ended: {tally(counts)}"
    found = f"; best {document['metric']} {metric(best['value'])} in trial {best['trial']}" if best else ""
    return clean(f"{document['name']} {document['state']} ({progress}){found}")
