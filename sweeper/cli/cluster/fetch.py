"""The verb `fetch`: brings the results of a sweep here from where its folder is."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.cli import options, report
from sweeper.cli.look.show import chosen_sweep
from sweeper.core.errors import InputError, StorageError, SweeperError, TrackingError
from sweeper.core.text import clean

if TYPE_CHECKING:
    from sweeper.study.view import StudyView

MARKER = "fetched.json"
"""File that says which study a folder was fetched from."""

MAX_MARKER_BYTES = 100_000

REPORT, BEST, MODEL = "report.html", "best.yaml", "model"

_OTHER = "choose another folder with -o"

_Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FOLDER", help="Write to this folder. Default: NAME.", show_default=False),
]


def fetch(
    name: options.OptionalName = None,
    output: _Output = None,
    storage: options.Storage = options.DEFAULT_STORAGE,
    tracking_uri: options.TrackingUri = None,
    json: options.Json = False,
) -> None:
    """Write the report on a sweep, its best parameters and its model into a folder here.

    All comes from the study's database and from MLflow; the folder of the sweep is not needed.
    """
    from sweeper.study.open import read_study

    study = read_study(chosen_sweep(name, storage), storage)
    folder = output or Path(study.name)
    _claim(folder, study)
    fetched, missing = _write_known(study, folder), list[str]()
    failure: SweeperError | None = None
    try:
        found, missing = _write_model(study, tracking_uri, folder / MODEL)
        fetched |= found
    except (TrackingError, InputError) as error:
        failure = error
    _print(study, folder, fetched, missing, json=json)
    if failure is not None:
        raise TrackingError(f"the model was not fetched: {failure}. The same command fetches it later") from failure


def _claim(folder: Path, study: StudyView) -> None:
    """Mark a folder as fetched from a study. It must be new or empty, or have that mark.

    Raises:
        InputError: it holds something else, or cannot be written.
    """
    from sweeper.core.files import check_writable_folder, read_small, write_json

    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; {_OTHER}")
    check_writable_folder(folder, _OTHER)
    mark = {"study": study.id, "name": study.name}
    try:
        known = json_.loads(read_small(folder / MARKER, MAX_MARKER_BYTES))
    except (OSError, ValueError, RecursionError):
        known = None
    if known is None and folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} holds something else than a fetched sweep; {_OTHER}")
    if known not in (None, mark):
        raise InputError(f"{folder} holds another sweep that was fetched, and would be overwritten; {_OTHER}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / MARKER, mark)
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}); {_OTHER}") from error


def _write_known(study: StudyView, folder: Path) -> dict[str, str]:
    """Write what the study knows; return a sentence for each file."""
    from sweeper.cli.look.html import write_report
    from sweeper.core.files import written_whole

    size = write_report(study, folder / REPORT)
    fetched = {REPORT: f"the report ({size / 1e6:.1f} MB)"}
    if (best := study.best()) is None:
        return fetched
    try:
        with written_whole(folder / BEST) as beside:
            beside.write_text(report.best_yaml(study.sweep, best))
    except OSError as error:
        raise StorageError(f"{folder / BEST} cannot be written ({error.strerror}); {_OTHER}") from error
    return fetched | {BEST: f"the parameters of trial {best.number}"}


def _write_model(study: StudyView, tracking_uri: str | None, folder: Path) -> tuple[dict[str, str], list[str]]:
    """Write the model of a sweep, in the form in which MLflow keeps it; return a sentence on it, and what is missing.

    Raises:
        TrackingError: MLflow cannot be reached, or refuses.
    """
    from sweeper import tracking
    from sweeper.cli.look.ui import store_of
    from sweeper.core.files import bytes_below, written_whole

    if study.best() is None:
        return {}, ["No trial has completed, so there is neither a model nor best parameters."]
    uri = store_of(study, tracking_uri)
    if reason := tracking.check_store(uri, must_exist=True):
        raise TrackingError(f"MLflow at {uri} does not answer: {reason}")
    if (model := tracking.find_kept_model(study, uri)) is None:
        return {}, [_why_no_model(study)]
    with written_whole(folder) as beside:
        tracking.download_model(model, uri, beside)
    return {f"{MODEL}/": f"{model.title} ({bytes_below(folder) / 1e6:.1f} MB)"}, []


def _why_no_model(study: StudyView) -> str:
    if study.is_running:
        return "MLflow has no model yet: the sweep runs, and its best model is logged at its end."
    return (
        "MLflow has no model of the sweep: its trials saved none (docs/trainables.md), or it ended before it was done."
    )


def _print(study: StudyView, folder: Path, fetched: dict[str, str], missing: list[str], *, json: bool) -> None:
    """Print what was fetched, and what is missing, with the reason."""
    from sweeper.cli.console import print_note
    from sweeper.cli.look.html import missing_parts

    notes = [*missing_parts(study), *missing]
    if study.is_running:
        notes.append(f"{study.name} runs; the same command fetches what it has come to later.")
    for note in notes:
        print_note(note)
    if json:
        files = {str(folder / name): what for name, what in fetched.items()}
        report.emit(report.to_json({"name": study.name, "folder": str(folder), "files": files, "missing": notes}))
        return
    width = max(len(str(folder / name)) for name in fetched)
    for name, what in fetched.items():
        report.emit(clean(f"{str(folder / name) + '/' * name.endswith('/'):{width + 1}}  {what}"))
