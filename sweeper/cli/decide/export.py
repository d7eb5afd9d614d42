"""The verb that writes a trial, or its model, for other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sweeper.cli import options, report
from sweeper.core.errors import InputError, StorageError
from sweeper.core.text import clean


class Form(StrEnum):
    """What is written."""

    keras = "keras"
    savedmodel = "savedmodel"
    onnx = "onnx"
    script = "script"
    yaml = "yaml"


_To = Annotated[
    Form,
    typer.Option(
        "--to",
        metavar="FORM",
        help="The model as keras, savedmodel or onnx; the trial as a script of plain Keras, or as a sweep in yaml.",
        show_default=False,
    ),
]
_Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write to this new file, or folder of a savedmodel."),
]


def export(
    name: options.Name,
    to: _To,
    trial: options.OneTrial = None,
    output: _Output = None,
    storage: options.Storage = options.DEFAULT_STORAGE,
    json: options.Json = False,
) -> None:
    """Write the best trial of a sweep, or another one, as a model or a program that needs no sweeper."""
    from sweeper.analysis.names import parse_target, trial_named
    from sweeper.cli.decide.promote import complete_trial, why_gone
    from sweeper.core.files import written_whole
    from sweeper.run.export import MODEL_FORMS, TEXT_FORMS, export_model, export_text
    from sweeper.study.open import read_study

    name, numbers = parse_target(name, [] if trial is None else [trial])
    study = read_study(name, storage)
    of_model = to.value in MODEL_FORMS
    number = next(iter(numbers), None)
    row = complete_trial(study, number) if of_model or number is None else trial_named(study, number)
    ending = {**MODEL_FORMS, **TEXT_FORMS}[to.value]
    target = Path(f"{name}-{row.number}{ending}") if output is None else output
    if target.exists():
        raise InputError(f"{target} exists already; name another with -o")
    if not target.parent.is_dir():
        raise InputError(f"there is no folder {target.parent}; create it, or name another place with -o")
    checked, text = "", "" if of_model else export_text(study, row, to.value)
    try:
        with written_whole(target.resolve()) as beside:
            if of_model:
                checked = export_model(study, row, to.value, beside)
            else:
                beside.write_text(text, encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(why_gone(study, row)) from error
    except OSError as error:
        raise StorageError(f"{target} cannot be written ({error.strerror}); name another with -o") from error
    if json:
        report.emit(report.to_json({"trial": row.number, "form": to.value, "file": str(target), "checked": checked}))
    else:
        report.emit(clean(f"trial {row.number} of {name} is in {target}" + (f"; {checked}" if checked else "")))
