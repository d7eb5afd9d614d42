"""The arguments and options of the command line, each declared once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from sweeper.errors import InputError

DEFAULT_STORAGE = "sqlite:///sweeper.db"


def _expanded(url: str | None) -> str | None:
    """A URL whose `${env:NAME}` are filled in, so that no password need stand on a command line."""
    from sweeper.spec.urls import expand

    return None if url is None else expand(url)


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
    typer.Option(envvar="SWEEPER_STORAGE", metavar="URL", callback=_expanded, help="The database of studies."),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        callback=_expanded,
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
Trials = Annotated[int | None, typer.Option("--trials", metavar="N", help="Trials to run.")]
Epochs = Annotated[float | None, typer.Option("--epochs", metavar="N", help="Epochs of a full trial.")]
Parallel = Annotated[str | None, typer.Option("--parallel", metavar="N|auto", help="Trials at a time.")]
Timeout = Annotated[str | None, typer.Option("--timeout", metavar="TIME", help="Stop after 90s, 30m, 1h30m.")]
Cpus = Annotated[float | None, typer.Option("--cpus", metavar="N", help="CPUs of a trial.")]
Gpus = Annotated[float | None, typer.Option("--gpus", metavar="N", help="GPUs of a trial; trials share one: 0.25.")]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of the sweep.")]
SweepStorage = Annotated[
    str | None,
    typer.Option("--storage", metavar="URL", help="The database of studies; else SWEEPER_STORAGE's, the file's."),
]
Address = Annotated[
    str | None,
    typer.Option("--address", metavar="HOST:PORT", help="A Ray cluster; else RAY_ADDRESS, else this machine."),
]
Insecure = Annotated[
    bool, typer.Option("--insecure", metavar="", help="Join a Ray cluster that asks for no token.", show_default=False)
]
Folder = Annotated[
    Path | None, typer.Option("--dir", metavar="DIR", help="Where all else goes; else sweeps/NAME.", show_default=False)
]


def overrides(settings: list[str] | None, flags: Mapping[str, object]) -> dict[str, object]:
    """The keys of a sweep that the command line changes: every `--set`, then the flags that were given."""
    changed: dict[str, object] = {}
    for setting in settings or []:
        key, equals, value = setting.partition("=")
        if not key or not equals:
            raise InputError(f"--set {setting!r} is not KEY=VALUE, as in --set budget.trials=5")
        changed[key.strip()] = value
    return changed | {key: value for key, value in flags.items() if value is not None}


def sweep_storage(url: str | None) -> str | None:
    """The storage a sweep is to have: that of the environment by reference, for it may hold a password."""
    return url or ("${env:SWEEPER_STORAGE}" if os.environ.get("SWEEPER_STORAGE") else None)


def tracking_store(uri: str | None) -> str:
    """The MLflow store where no sweep is at hand to name one."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
