"""The arguments and options of the command line, each declared once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from sweeper.core.errors import InputError, SpecError
from sweeper.core.sweep_folder import is_remote

DEFAULT_STORAGE = "sqlite:///sweeper.db"


def _url(kind: str) -> Callable[..., str | None]:
    """Reads a URL; its `${env:NAME}` are filled in, so that no password need stand on a command line."""

    def read(context: typer.Context, parameter: typer.CallbackParam, url: str | None) -> str | None:
        from sweeper.core import urls

        if url is None:
            return None
        is_typed = str(context.get_parameter_source(str(parameter.name))).endswith("COMMANDLINE")
        if fault := getattr(urls, f"problem_of_{kind}")(url, secrets=not is_typed):
            raise InputError(f"{parameter.opts[0]}: {fault}")
        return urls.expand(url)

    return read


def _folder(path: str) -> Path | str:
    if not path:
        raise InputError("--dir: is empty; name a folder, or leave it out for sweeps/NAME")
    return path if is_remote(path) else Path(path)


def _address(context: typer.Context, parameter: typer.CallbackParam, address: str | None) -> str | None:
    from sweeper.core.urls import problem_of_address

    if address is not None and (fault := problem_of_address(address)):
        raise InputError(f"--address: {fault}")
    return address


def _dashboard_url(context: typer.Context, parameter: typer.CallbackParam, address: str | None) -> str | None:
    from sweeper.core.urls import problem_of_url

    if address is not None and (fault := problem_of_url(address, ("http", "https"))):
        raise InputError(f"--address: {fault}")
    return address


Files = Annotated[list[Path], typer.Argument(metavar="SPACE.yaml...", help="Sweep files.", show_default=False)]
File = Annotated[Path, typer.Argument(metavar="SPACE.yaml", help="The sweep file.", show_default=False)]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of a sweep.", show_default=False)]
AnyName = Annotated[str | None, typer.Argument(metavar="[NAME]", help="The sweep to link to.", show_default=False)]

Json = Annotated[bool, typer.Option("--json", metavar="", help="Print one JSON document on stdout.")]
Csv = Annotated[bool, typer.Option("--csv", metavar="", help="Print all trials and parameters as CSV.")]
All = Annotated[bool, typer.Option("--all", metavar="", help="All trials, not only the first 20.")]
Debug = Annotated[bool, typer.Option("--debug", metavar="", help="Show the traceback of an error.")]
Storage = Annotated[
    str,
    typer.Option(
        envvar="SWEEPER_STORAGE", metavar="URL", callback=_url("database_url"), help="The database of studies."
    ),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        callback=_url("tracking_uri"),
        help="MLflow's store; else the file's, MLFLOW_TRACKING_URI's, or one here.",
    ),
]
Port = Annotated[int | None, typer.Option("--port", metavar="N", help="Port of the UI; else any free one.")]

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change any key of the file: budget.trials=5. Repeatable."),
]
SweepName = Annotated[str | None, typer.Option("--name", metavar="NAME", help="Another name for the sweep.")]
Fork = Annotated[
    str | None,
    typer.Option("--fork", metavar="NEW", help="Begin the sweep NEW with the best points of this one."),
]
Trials = Annotated[str | None, typer.Option("--trials", metavar="N", help="Trials to run.")]
Epochs = Annotated[str | None, typer.Option("--epochs", metavar="N", help="Epochs of a full trial.")]
Parallel = Annotated[str | None, typer.Option("--parallel", metavar="N|auto", help="Trials at a time.")]
Timeout = Annotated[str | None, typer.Option("--timeout", metavar="TIME", help="Stop after 90s, 30m, 1h30m.")]
Cpus = Annotated[str | None, typer.Option("--cpus", metavar="N", help="CPUs of a trial.")]
Gpus = Annotated[str | None, typer.Option("--gpus", metavar="N", help="GPUs of a trial; trials share one: 0.25.")]
Seed = Annotated[str | None, typer.Option("--seed", metavar="N", help="Seed of the sweep.")]
SweepStorage = Annotated[
    str | None,
    typer.Option("--storage", metavar="URL", help="The database of studies; else SWEEPER_STORAGE's, the file's."),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="HOST:PORT", callback=_address, help="A Ray cluster; else RAY_ADDRESS, else this machine."
    ),
]
Dashboard = Annotated[
    str | None,
    typer.Option(
        "--address",
        envvar="RAY_API_SERVER_ADDRESS",
        metavar="URL",
        callback=_dashboard_url,
        help="The dashboard of a Ray cluster, http://HEAD:8265.",
    ),
]
RemoteFolder = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        metavar="DIR",
        parser=_folder,
        help="There: a folder, or URL, that all share.",
        show_default=False,
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option("--address", metavar="ADDRESS", help="A Ray cluster: HOST:PORT, auto, or http://HEAD:8265."),
]
SharedFolder = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        metavar="DIR",
        parser=_folder,
        help="A folder, or URL, that all its nodes share.",
        show_default=False,
    ),
]
BackendName = Annotated[
    Literal["ray", "kuberay"], typer.Option("--backend", help="Ray's Jobs API, or a RayJob on Kubernetes.")
]
Namespace = Annotated[str, typer.Option("--namespace", "-n", metavar="NAME", help="Of Kubernetes; with kuberay.")]
Context = Annotated[
    str | None, typer.Option("--context", metavar="NAME", help="Of the kubeconfig, if not the current one.")
]
Image = Annotated[str | None, typer.Option("--image", metavar="IMAGE", help="That all pods run; with kuberay.")]
WorkerGpus = Annotated[
    int, typer.Option("--worker-gpus", min=0, metavar="N", help="GPUs of each worker; with kuberay.")
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, metavar="N", help="At the most; with kuberay.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", metavar="", help="Print what would be submitted, as YAML.", show_default=False)
]
Follow = Annotated[bool, typer.Option("--follow", "-f", metavar="", help="Stay until it ends.", show_default=False)]
RemoteTrackingUri = Annotated[
    str | None,
    typer.Option("--tracking-uri", metavar="URI", help="MLflow's server; else the cluster's MLFLOW_TRACKING_URI."),
]
Insecure = Annotated[
    bool, typer.Option("--insecure", metavar="", help="Join a Ray cluster that asks for no token.", show_default=False)
]
AllowCodeChange = Annotated[
    bool,
    typer.Option(
        "--allow-code-change", metavar="", help="Go on though the trainable's code has changed.", show_default=False
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--dir", metavar="DIR", parser=_folder, help="Where all else goes; else sweeps/NAME.", show_default=False
    ),
]


FLAGS = {
    "name": "name",
    "trials": "budget.trials",
    "epochs": "budget.epochs",
    "parallel": "budget.parallel",
    "timeout": "budget.timeout",
    "cpus": "resources.cpus",
    "gpus": "resources.gpus",
    "seed": "seed",
    "storage": "storage",
}
"""What is short for `--set KEY`."""


def flags(**given: str | None) -> dict[str, str | None]:
    """What the options of these names say, by the keys of a sweep."""
    return {FLAGS[option]: text for option, text in given.items()}


@contextmanager
def blame_options(flags: Mapping[str, str | None], **others: str) -> Iterator[None]:
    """Tells the faults of a sweep under the names of the options that were given."""
    try:
        yield
    except SpecError as error:
        names = {key: f"--{option}" for option, key in FLAGS.items()} | others
        short = {f"--set {key}": names[key] for key, value in flags.items() if value is not None}
        told = [replace(problem, key=short.get(problem.key, problem.key)) for problem in error.problems]
        raise SpecError(error.source, told) from error


def overrides(settings: list[str] | None, flags: Mapping[str, str | None]) -> dict[str, str]:
    """The keys of a sweep that the command line changes, as YAML: every `--set`, then the flags that were given."""
    changed: dict[str, str] = {}
    for setting in settings or []:
        key, equals, value = setting.partition("=")
        if not key or not equals:
            raise InputError(f"--set {setting!r} is not KEY=VALUE, as in --set budget.trials=5")
        changed[key.strip()] = value
    for key, text in flags.items():
        if text is not None:
            changed[key] = quoted(text) if key in ("name", "storage") else text
    return changed


def quoted(text: str) -> str:
    """Text that is no YAML, as YAML: `--name 2024` is a name."""
    return json.dumps(text, ensure_ascii=False)


def sweep_storage(url: str | None) -> str | None:
    """The storage a sweep is to have: that of the environment by reference, for it may hold a password."""
    return "${env:SWEEPER_STORAGE}" if url is None and os.environ.get("SWEEPER_STORAGE") else url


def tracking_store(uri: str | None) -> str:
    """The MLflow store where no sweep is at hand to name one."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
