"""The verb that writes the report on a sweep as one HTML file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.cli import options
from sweeper.cli.look.show import chosen_sweep
from sweeper.cli.report import emit, to_json
from sweeper.core.errors import InputError, StorageError

if TYPE_CHECKING:
    from sweeper.study.view import StudyView

_OTHER = "choose another file with -o"


def report(
    name: options.OptionalName = None,
    output: options.Output = None,
    storage: options.Storage = options.DEFAULT_STORAGE,
    json: options.Json = False,
) -> None:
    """Write a report on a sweep, running or not, as one HTML file that needs nothing else."""
    from sweeper.cli import console
    from sweeper.study.open import read_study

    if output is not None:
        _check(output)
    study = read_study(chosen_sweep(name, storage), storage)
    if output is None:
        _check(output := _default_place(study))
    size, missing = write_report(study, output), missing_parts(study)
    for note in missing:
        console.print_note(note)
    if json:
        emit(to_json({"name": study.name, "file": str(output), "bytes": size, "missing": missing}))
    else:
        emit(f"The report on {study.name} is in {output} ({size / 1e6:.1f} MB); open it in a browser.")


def write_report(study: StudyView, output: Path) -> int:
    """Write the report on a sweep to a file, whole or not at all; return its size in bytes.

    Raises:
        StorageError: it cannot be written.
    """
    from sweeper.core.files import written_whole
    from sweeper.run import report_page

    page = report_page(study, is_running=study.is_running)
    try:
        with written_whole(output.resolve()) as beside:
            beside.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"the report cannot be written to {output} ({error.strerror}); {_OTHER}") from error
    return len(page.encode())


def _default_place(study: StudyView) -> Path:
    """Return `report.html` in the folder of the sweep, or `NAME.html` here if that folder is not at hand."""
    from sweeper.analysis.trials import folder_at_hand

    place = folder_at_hand(study)
    if place is None or place.url is not None or not os.access(place.path, os.W_OK):
        return Path(f"{study.name}.html")
    file = place.path / "report.html"
    return file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file


def missing_parts(study: StudyView) -> list[str]:
    """Return what the report lacks because only the database of the sweep is at hand."""
    from sweeper.analysis.trials import folder_at_hand

    if folder_at_hand(study) is not None:
        return []
    return [f"The folder of the sweep, {study.folder}, is not here, so the report lacks what the best model predicted."]


def _check(file: Path) -> None:
    """Raise InputError if a file cannot be written, or holds something else than a report."""
    from sweeper.core.files import check_writable_file

    if not file.parent.is_dir():
        raise InputError(f"cannot write to {file} (there is no folder {file.parent}); create it, or {_OTHER}")
    check_writable_file(file, _OTHER)
    if file.exists() and not _is_report(file):
        raise InputError(f"{file} exists, and is no report of sweeper. Remove it, or {_OTHER}")


def _is_report(file: Path) -> bool:
    """Return whether a file is a report, which the next one may replace; so may an empty file."""
    from sweeper.core.files import open_regular

    try:
        with open_regular(file.resolve()) as opened:
            start = opened.read(1000)
    except OSError:  # a device, a pipe, or no permission to read it
        return False
    return not start or b'<meta name="generator" content="sweeper' in start
