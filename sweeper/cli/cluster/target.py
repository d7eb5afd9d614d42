"""The cluster that the options of a verb name, and what is submitted to it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.cli import report
from sweeper.core.errors import InputError
from sweeper.core.text import format_value

if TYPE_CHECKING:
    from sweeper.backends import Backend, Submission
    from sweeper.backends.rayjob import Template
    from sweeper.spec import Sweep


def is_submitted(backend: str, dashboard: str | None) -> bool:
    """Return whether the options name a cluster, and not this machine."""
    return dashboard is not None or backend != "ray"


def pods_from(backend: str, rayjob: Path | None, namespace: str | None, **values: Any) -> dict[str, Any]:
    """Return the fields of `Template` that the options set, for Kubernetes.

    Raises:
        InputError: the file of the RayJob cannot be used, or an option is for Kubernetes only.
    """
    if backend != "kuberay":
        for option, value in {"--rayjob": rayjob, "--queue": values["queue"]}.items():
            if value is not None:
                raise InputError(f"{option}: is for Kubernetes only; add --backend kuberay, or leave it out")
        return {}
    from sweeper.backends.rayjob_file import read_rayjob

    manifest = None if rayjob is None else read_rayjob(rayjob)
    own = None if manifest is None else manifest["metadata"].get("namespace")
    return {"namespace": namespace or own, "manifest": manifest, **values}


def backend_from(
    backend: str,
    dashboard: str | None,
    *,
    insecure: bool,
    context: str | None,
    namespace: str | None = None,
    **pods: Any,
) -> Backend:
    """Return the cluster that the options name.

    Args:
        pods: further fields of `Template` that the options set, for Kubernetes.

    Raises:
        InputError: they name no cluster.
    """
    if backend == "kuberay":
        from sweeper.backends.kuberay import KubeRay
        from sweeper.cli.console import print_note

        return KubeRay(_template(namespace, **pods), context, on_delay=print_note)
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
    text = json.dumps(sweep.model_dump(mode="json"), indent=2)
    return Submission(sweep.name, text, where, code=sweep.trainable)


def print_dry_run(submission: Submission, backend: str, **pods: Any) -> None:
    """Print the sweep that would be submitted, or the Kubernetes objects."""
    if backend != "kuberay":
        report.emit(submission.text)
        return
    from ruamel.yaml import YAML
    from ruamel.yaml.scalarstring import walk_tree

    objects = _template(**pods).render(submission)
    walk_tree(objects)  # text of several lines becomes a block
    writer = YAML()
    writer.default_flow_style, writer.width = False, 1000
    writer.dump_all(objects, sys.stdout)


def _template(namespace: str | None, **pods: Any) -> Template:
    from sweeper.backends.kubernetes_api import is_label
    from sweeper.backends.rayjob import Template

    chosen = namespace or Template.namespace
    if not is_label(chosen):
        raise InputError(
            f"--namespace: {format_value(chosen)} is no name of a namespace; it has at most 63 letters a-z, digits and "
            "'-', and begins and ends with a letter or digit"
        )
    return Template(chosen, **pods)


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
