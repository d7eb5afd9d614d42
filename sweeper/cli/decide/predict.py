"""The verb that shows what a model makes of pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.cli import options, report
from sweeper.core.errors import InputError
from sweeper.core.text import clean

if TYPE_CHECKING:
    from sweeper.cli.decide.predictions import Prediction
    from sweeper.study.view import StudyView
    from sweeper.tracking import Classifier

_MNIST_FIGURE = 20 / 28
"""The longer side of a digit, as a share of its picture's side."""

_Inputs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL] FILE...",
        help="Pictures, folders of pictures, .npy or .npz. Before them NAME, NAME:TRIAL, models:/NAME@champion or the "
        "folder of a model. Default: the newest sweep's.",
        show_default=False,
    ),
]
_Test = Annotated[
    str | None, typer.Option("--test", metavar="A:B", help="Also samples A to B-1 of the sweep's test set.")
]
_Csv = Annotated[bool, typer.Option("--csv", metavar="", help="Print one line per picture as CSV.")]


def predict(
    inputs: _Inputs = None,
    test: _Test = None,
    storage: options.Storage = options.DEFAULT_STORAGE,
    tracking_uri: options.TrackingUri = None,
    json: options.Json = False,
    csv: _Csv = False,
) -> None:
    """Show what a model makes of pictures of digits: any size, dark on light or light on dark."""
    given = list(inputs or ())
    named = given.pop(0) if given and _names_model(given[0]) else None
    wanted = _parts_of(test) if test is not None else None
    if not given and wanted is None:
        raise InputError("name at least one picture, a folder of pictures, or samples of the test set: --test 0:5")
    for file in given:
        if not Path(file).exists():
            raise InputError(f"{file}: no such file or folder")
    title, study, classifier = _load(named, storage, tracking_uri)
    predictions = _predict(classifier, study, [Path(file) for file in given], wanted)
    if json:
        hidden = ("pixels",)
        documents = [{key: value for key, value in vars(one).items() if key not in hidden} for one in predictions]
        report.emit(report.to_json({"model": title, "predictions": documents}))
    elif csv:
        rows = ([one.input, one.predicted, one.probability, one.label or ""] for one in predictions)
        report.emit(report.csv_text(("input", "predicted", "probability", "label"), rows))
    else:
        from sweeper.cli import console
        from sweeper.cli.decide.predictions import print_predictions

        console.print_note(title)
        print_predictions(predictions)


def _names_model(text: str) -> bool:
    """Return whether an argument names a model and no file."""
    path = Path(text)
    if path.exists():
        return (path / "MLmodel").is_file()
    return (
        text.startswith("models:/") or re.fullmatch(r"[A-Za-z0-9][\w.-]*(:\d+)?", text) is not None and not path.suffix
    )


def _parts_of(text: str) -> slice:
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise InputError(f"--test {text}: write A:B with A below B, as in --test 0:5")
    return slice(int(match[1]), int(match[2]))


def _load(named: str | None, storage: str, tracking_uri: str | None) -> tuple[str, StudyView | None, Classifier]:
    """Return which model it is, in words, the sweep that it comes from if that is known, and the model."""
    from sweeper import tracking

    if named is not None and (named.startswith("models:/") or Path(named).is_dir()):
        uri = tracking.store_uri(tracking_uri)
        return f"model {clean(named)}", None, tracking.load_classifier(named, uri)
    from sweeper.analysis.names import parse_target
    from sweeper.cli.decide.promote import complete_trial, why_gone
    from sweeper.cli.look.show import chosen_sweep
    from sweeper.cli.look.ui import store_of
    from sweeper.run import saved_model
    from sweeper.study.open import read_study

    name, numbers = parse_target(chosen_sweep(named, storage))
    study = read_study(name, storage)
    row = complete_trial(study, next(iter(numbers), None))
    uri = store_of(study, tracking_uri)
    where, _ = saved_model(study, row)
    if where is None:
        kept = tracking.find_kept_model(study, uri)
        if kept is None or kept.trial != row.number:
            raise InputError(why_gone(study, row))
        return f"{name}, trial {row.number}", study, tracking.load_classifier(f"models:/{kept.id}", uri)
    return f"{name}, trial {row.number}", study, tracking.load_classifier(where, uri)


def _predict(
    classifier: Classifier, study: StudyView | None, files: Sequence[Path], test: slice | None
) -> list[Prediction]:
    import numpy as np

    from sweeper.cli.decide.predictions import Prediction
    from sweeper.datasets.catalog import images_of
    from sweeper.datasets.pictures import read_pictures

    declared, by_pixel = study.sweep.dataset if study else None, classifier.takes_pixels_one_by_one
    dataset = images_of(declared, classifier.side, by_pixel=by_pixel)
    names: list[str] = []
    labels: list[str | None] = []
    pictures, inputs = [], []
    if files:
        names, pixels = read_pictures(files, classifier.side, _MNIST_FIGURE if dataset.type == "mnist" else 1.0)
        labels += [None] * len(names)
        pictures.append(pixels)
        inputs.append(dataset.arrange(pixels).reshape(len(pixels), -1))
    if test is not None:
        data = dataset.load()
        if test.stop > (count := len(data.x_test)):
            raise InputError(f"--test {test.start}:{test.stop}: the test set of {dataset.type} has {count:,} samples")
        names += [f"test {index}" for index in range(test.start, test.stop)]
        labels += [dataset.labels[label] for label in data.y_test[test]]
        pictures.append(dataset.images(data.x_test[test]))
        inputs.append(data.x_test[test].reshape(test.stop - test.start, -1))
    found = classifier.probabilities(np.concatenate(inputs))
    count = found.shape[1]
    classes = dataset.labels if len(dataset.labels) == count else tuple(map(str, range(count)))
    predictions = []
    for name, shares, label, picture in zip(names, found, labels, np.concatenate(pictures), strict=True):
        each = dict(zip(classes, map(float, shares), strict=True))
        top = max(each, key=lambda one: each[one])
        predictions.append(Prediction(name, top, each[top], label, each, picture))
    return predictions
