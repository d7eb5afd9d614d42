"""The arguments and options of the command line, each declared once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sweeper.core.errors import InputError, SpecError
from sweeper.core.urls import (
    expand,
    problem_of_address,
    problem_of_database_url,
    problem_of_folder,
    problem_of_tracking_uri,
    problem_of_url,
)

if TYPE_CHECKING:
    from sweeper.spec import Sweep

DEFAULT_STORAGE = "sqlite:///sweeper.db"


def _url(problem_of: Callable[..., str | None]) -> Callable[..., str | None]:
    """Make a callback that checks a URL and fills in its `${env:NAME}`.

    References keep passwords out of the command line, which other users of the machine can read.
    """

    def read(context: typer.Context, parameter: typer.CallbackParam, url: str | None) -> str | None:
        if url is None:
            return None
        is_typed = str(context.get_parameter_source(str(parameter.name))).endswith("COMMANDLINE")
        for text, may_hold_secrets in ((url, not is_typed), (expand(url), True)):
            if problem := problem_of(text, secrets=may_hold_secrets):
                raise InputError(f"{parameter.opts[0]}: {problem}")
        return expand(url)

    return read


def _checked(problem_of: Callable[[str], str | None]) -> Callable[..., str | None]:
    """Make a callback that refuses a text with a problem."""

    def check(parameter: typer.CallbackParam, text: str | None) -> str | None:
        if text is not None and (problem := problem_of(text)):
            raise InputError(f"{parameter.opts[0]}: {problem}")
        return text

    return check


def _folder(path: str) -> Path | str:
    from sweeper.core.sweep_folder import is_remote

    if problem := problem_of_folder(path):
        raise InputError(f"--dir: {problem}")
    return path if is_remote(path) else Path(path)


def _flag(*names: str, help: str) -> Any:
    return typer.Option(*names, metavar="", help=help, show_default=False)


def _dir(help: str) -> Any:
    return typer.Option("--dir", metavar="DIR", parser=_folder, help=help, show_default=False)


def _address(help: str) -> Any:
    return typer.Option("--address", metavar="HOST:PORT", callback=_checked(problem_of_address), help=help)


Files = Annotated[list[Path], typer.Argument(metavar="SPACE.yaml...", help="Sweep files.", show_default=False)]
File = Annotated[Path, typer.Argument(metavar="SPACE.yaml", help="The sweep file.", show_default=False)]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of a sweep.", show_default=False)]
OptionalName = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="The name of a sweep. Default: the newest.", show_default=False)
]
OneTrial = Annotated[
    str | None, typer.Argument(metavar="[TRIAL]", help="The number of one of its trials.", show_default=False)
]

Targets = Annotated[
    list[str],
    typer.Argument(metavar="A B...", help="Trials, as in lstm:3, or sweeps, at least two.", show_default=False),
]
Reach = Annotated[
    list[float] | None,
    typer.Option("--reach", metavar="VALUE", help="Show how soon each reached this value. Repeatable."),
]
Once = Annotated[bool, typer.Option("--once", metavar="", help="Print the state once, and end.")]

Json = Annotated[bool, typer.Option("--json", metavar="", help="Print one JSON document on stdout.")]
Csv = Annotated[bool, typer.Option("--csv", metavar="", help="Print all trials and parameters as CSV.")]
All = Annotated[bool, typer.Option("--all", metavar="", help="Print all trials, instead of the first 20.")]
Debug = Annotated[bool, typer.Option("--debug", metavar="", help="Print the traceback of an error.")]
Storage = Annotated[
    str,
    typer.Option(
        envvar="SWEEPER_STORAGE",
        metavar="URL",
        callback=_url(partial(problem_of_database_url, may_look=True)),
        help="The database of studies; k8s://NAMESPACE: that of a cluster.",
    ),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        callback=_url(problem_of_tracking_uri),
        help="The MLflow store. Default: the sweep's, MLFLOW_TRACKING_URI, or a local file.",
    ),
]
_Port = typer.Option("--port", min=1, max=65535, metavar="N", help="Port of the UI. Default: any free one.")
Port = Annotated[int | None, _Port]
OptunaDashboard = Annotated[
    bool, typer.Option("--optuna", metavar="", help="Start optuna-dashboard on the database of studies instead.")
]
_Output = typer.Option("--output", "-o", metavar="FILE", help="Write to this file.", show_default=False)
Output = Annotated[Path | None, _Output]

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the file: budget.trials=5. Repeatable."),
]
SweepName = Annotated[str | None, typer.Option("--name", metavar="NAME", help="Run the sweep under another name.")]
Fork = Annotated[
    str | None,
    typer.Option("--fork", metavar="NEW", help="Begin the sweep NEW, which learns from the trials of this one."),
]
Trials = Annotated[
    str | None, typer.Option("--trials", metavar="N|+N", help="Trials in all; +3: three more than have started.")
]
Epochs = Annotated[str | None, typer.Option("--epochs", metavar="N", help="Epochs of a full trial.")]
Parallel = Annotated[str | None, typer.Option("--parallel", metavar="N|auto", help="Trials at a time.")]
Timeout = Annotated[str | None, typer.Option("--timeout", metavar="TIME", help="Stop after 90s, 30m or 1h30m.")]
Cpus = Annotated[str | None, typer.Option("--cpus", metavar="N", help="CPUs of one trial.")]
Gpus = Annotated[str | None, typer.Option("--gpus", metavar="N", help="GPUs of one trial. With 0.25, four share one.")]
Seed = Annotated[str | None, typer.Option("--seed", metavar="N", help="Seed of the sweep.")]
SweepStorage = Annotated[
    str | None,
    typer.Option("--storage", metavar="URL", help="The database of studies. Default: SWEEPER_STORAGE or the file's."),
]
_WHERE_TO_RUN = "The Ray cluster to join, or auto on one of its nodes. Default: RAY_ADDRESS, or this machine."
Address = Annotated[str | None, _address(_WHERE_TO_RUN)]
ClusterAddress = Annotated[str | None, _address("Check the nodes of this Ray cluster; auto on one of its nodes.")]
Dashboard = Annotated[
    str | None,
    typer.Option(
        "--dashboard",
        envvar="RAY_API_SERVER_ADDRESS",
        metavar="URL",
        callback=_checked(lambda url: problem_of_url(url, ("http", "https"))),
        help="The dashboard of a Ray cluster: http://HEAD:8265.",
    ),
]
_SHARED = "The sweep's folder: a path that all nodes share, or a URL that all reach."
RemoteFolder = Annotated[Path | None, _dir(_SHARED)]
SharedFolder = Annotated[Path | None, _dir("Check that all nodes of --address share this folder, or reach this URL.")]
BackendName = Annotated[
    Literal["ray", "kuberay"], typer.Option("--backend", help="Use Ray's Jobs API, or a RayJob on Kubernetes.")
]
_Namespace = typer.Option("--namespace", "-n", metavar="NAME", help="Kubernetes namespace (kuberay). Default: sweeper.")
Namespace = Annotated[str | None, _Namespace]
Context = Annotated[
    str | None,
    typer.Option("--context", metavar="NAME", help="Context of the kubeconfig (kuberay). Default: the current one."),
]
Image = Annotated[str | None, typer.Option("--image", metavar="IMAGE", help="Image of all pods (kuberay).")]
WorkerGpus = Annotated[int, typer.Option("--worker-gpus", min=0, metavar="N", help="GPUs of each worker (kuberay).")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, metavar="N", help="Most workers (kuberay).")]
RayJob = Annotated[
    Path | None, typer.Option("--rayjob", metavar="FILE", help="RayJob to fill in (kuberay); - is stdin.")
]
Queue = Annotated[str | None, typer.Option("--queue", metavar="NAME", help="Queue of Kueue to wait in (kuberay).")]
NoWait = Annotated[bool, _flag("--no-wait", help="Return at once, instead of when the sweep runs (kuberay).")]
DryRun = Annotated[bool, _flag("--dry-run", help="Print what would be submitted; submit nothing.")]
Follow = Annotated[bool, _flag("--follow", "-f", help="Print the output until the sweep ends.")]
RemoteTrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri", metavar="URI", help="The MLflow server. Default: the cluster's MLFLOW_TRACKING_URI."
    ),
]
Insecure = Annotated[bool, _flag("--insecure", help="Use a Ray cluster that asks for no token.")]
RetryFailed = Annotated[bool, _flag("--retry-failed", help="Run failed trials again, with their parameters.")]
TrialNumbers = Annotated[
    list[int] | None,
    typer.Argument(metavar="[TRIAL...]", help="Numbers of failed trials. Default: all of them.", show_default=False),
]
WithTracking = Annotated[bool, _flag("--tracking", help="Delete its MLflow runs too.")]
Yes = Annotated[bool, _flag("--yes", "-y", help="Do not ask.")]
AllowCodeChange = Annotated[
    bool, _flag("--allow-code-change", help="Resume although the trainable's code has changed.")
]
Folder = Annotated[Path | None, _dir("Folder of the sweep. Default: sweeps/NAME.")]

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
"""Options that are short for `--set KEY=VALUE`, and their keys."""


def by_key(**flags: str | None) -> dict[str, str | None]:
    """Return the values of these options under the keys of a sweep that they set."""
    return {FLAGS[option]: text for option, text in flags.items()}


def load_with_flags(space: Path, settings: list[str] | None, flags: Mapping[str, str | None], **names: str) -> Sweep:
    """Load a sweep file with the changes of `--set` and of the flags.

    Args:
        flags: values by the keys of a sweep, as `by_key` returns them.
        names: the option to name for a key in messages, where it is not the one in `FLAGS`.

    Raises:
        SpecError: the sweep has problems; those of a flag are reported under the flag's name.
    """
    from sweeper.spec import load_sweep

    if space.suffix not in (".yaml", ".yml") and not os.path.lexists(space):
        from sweeper.analysis.names import commands_meant

        if meant := commands_meant(str(space), expand(sweep_storage(flags.get("storage")) or DEFAULT_STORAGE)):
            raise InputError(f"{space}  no such file. Did you mean: {' or: '.join(meant)}")

    with blame_options(flags, **names):
        return load_sweep(space, overrides(settings, flags))


@contextmanager
def blame_options(flags: Mapping[str, str | None], **names: str) -> Iterator[None]:
    """Report the problems of a sweep under the names of the options that caused them."""
    try:
        yield
    except SpecError as error:
        option_of = {key: f"--{option}" for option, key in FLAGS.items()} | names
        renamed = {f"--set {key}": option_of[key] for key, value in flags.items() if value is not None}
        problems = [replace(problem, key=renamed.get(problem.key, problem.key)) for problem in error.problems]
        raise SpecError(error.source, problems) from error


def overrides(settings: list[str] | None, flags: Mapping[str, str | None]) -> dict[str, str]:
    """Collect the keys that the command line changes, with their values as YAML; a flag wins over `--set`."""
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
    """Quote text as a YAML string, so that `--name 2024` is a name and not a number."""
    return json.dumps(text, ensure_ascii=False)


def sweep_storage(url: str | None) -> str | None:
    """Return the database for a sweep. SWEEPER_STORAGE is returned as a reference, because it may hold a password."""
    return "${env:SWEEPER_STORAGE}" if url is None and os.environ.get("SWEEPER_STORAGE") else url
