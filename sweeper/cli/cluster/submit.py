"""The verbs for sweeps on a cluster: submit one, ask for its state, read its output."""

from __future__ import annotations

from typing import Any

from sweeper.cli import options, report
from sweeper.cli.cluster.submitted import follow_output, follow_submission, job_line, print_failure
from sweeper.cli.cluster.target import backend_from, is_submitted, pods_from, print_dry_run, submission_of
from sweeper.cli.look.output import show_output
from sweeper.cli.look.show import chosen_sweep
from sweeper.cli.trials import refuse_added
from sweeper.core.errors import InputError
from sweeper.core.text import clean, metric, tally


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
    namespace: options.Namespace = None,
    context: options.Context = None,
    rayjob: options.RayJob = None,
    image: options.Image = None,
    worker_gpus: options.WorkerGpus = 0,
    workers: options.Workers = None,
    queue: options.Queue = None,
    no_wait: options.NoWait = False,
    dry_run: options.DryRun = False,
    follow: options.Follow = False,
) -> int:
    """Submit a sweep to a cluster; submitting it again resumes it.

    On Kubernetes, return when the sweep runs, and say why as long as it does not.
    """
    from sweeper.cli import console

    refuse_added(trials, settings)
    budget = {"trials": trials, "epochs": epochs, "parallel": parallel, "timeout": timeout}
    flags = options.by_key(name=name, cpus=cpus, gpus=gpus, seed=seed, storage=options.sweep_storage(storage), **budget)
    sweep = options.load_with_flags(space, settings, flags)
    submission = submission_of(sweep, backend, folder=folder, tracking_uri=tracking_uri, insecure=insecure)
    pods = pods_from(backend, rayjob, namespace, queue=queue, image=image, gpus=worker_gpus, workers=workers)
    if dry_run:
        print_dry_run(submission, backend, **pods)
        return 0
    chosen = backend_from(backend, dashboard, insecure=insecure, context=context, **pods)
    console.print_note(chosen.submit(submission))
    return follow_submission(chosen, sweep.name, waits=not no_wait, follow=follow)


def status(
    name: options.OptionalName = None,
    storage: options.Storage = options.DEFAULT_STORAGE,
    backend: options.BackendName = "ray",
    dashboard: options.Dashboard = None,
    insecure: options.Insecure = False,
    namespace: options.Namespace = None,
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
        document, line = job.__dict__, job_line(job)
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
    namespace: options.Namespace = None,
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
        return follow_output(chosen, name)
    for text in chosen.logs(name, follow=False):
        report.emit_text(text)
    print_failure(chosen, name)
    return 0


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
