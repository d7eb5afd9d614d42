"""What the test of the best trial records of its predictions."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sweeper.datasets.catalog import Digits
from sweeper.training import RNNParams, train_rnn, trainable
from sweeper.training.predictions import MAX_MISTAKES, summarise
from tests.training.conftest import RecordedTrial

MakeTrial = Callable[..., RecordedTrial]


def test_matrix_counts_and_the_surest_mistakes_come_first() -> None:
    logits = np.array([[9.0, 0, 0], [0, 5, 0], [3, 0, 0], [0, 0, 1]])
    found = summarise(logits, np.array([0, 0, 1, 2]), ("a", "b", "c"), lambda places: None)
    assert found.matrix == ((1, 1, 0), (1, 0, 0), (0, 0, 1))
    assert [(each.label, each.predicted) for each in found.mistakes] == [(0, 1), (1, 0)]
    assert found.mistakes[0].probability == pytest.approx(np.exp(5) / (np.exp(5) + 2))
    assert not found.mistakes[0].picture


def test_few_mistakes_are_kept_with_their_pictures() -> None:
    images = np.arange(20 * 6, dtype=np.uint8).reshape(20, 2, 3)
    logits = np.stack([np.zeros(20), np.arange(20) + 1.0], axis=1)
    found = summarise(logits, np.zeros(20, int), ("a", "b"), lambda places: images[places])
    assert len(found.mistakes) == MAX_MISTAKES and found.matrix == ((0, 20), (0, 0))
    png = base64.b64decode(found.mistakes[0].picture)
    assert np.asarray(Image.open(io.BytesIO(png))).tolist() == [[114, 115, 116], [117, 118, 119]]


@pytest.mark.parametrize("layout", ["rows", "columns", "pixels", "permuted"])
def test_images_are_those_of_the_dataset_in_every_layout(layout: Any) -> None:
    dataset = Digits(layout=layout, test=5)
    assert (dataset.images(dataset.load().x_test) == Digits(test=5).load().x_test).all()


def test_predictions_agree_with_the_accuracy_of_the_test(make_trial: MakeTrial, tmp_path: Path) -> None:
    trial = make_trial(epochs=1, dataset=Digits(train=96, validation=32, test=300))
    params = RNNParams(units=8, batch_size=16, learning_rate=0.02)
    train_rnn(params, trial)
    metrics = trainable.evaluate(params, _again(trial, tmp_path))
    saved = trial.checkpoints.predictions.latest()
    assert saved is not None
    document = json.loads((saved.path / "predictions.json").read_text())
    matrix = np.array(document["matrix"])
    assert matrix.sum() == 300 and matrix.trace() / 300 == pytest.approx(metrics["test_accuracy"])
    assert len(document["mistakes"]) == MAX_MISTAKES and (saved.path / "predictions.json").stat().st_size < 20_000
    assert all(each["label"] != each["predicted"] for each in document["mistakes"])


def _again(trial: RecordedTrial, tmp_path: Path) -> RecordedTrial:
    """Return the trial as the test of the best one gets it."""
    latest = trial.checkpoints.latest()
    assert latest is not None
    trial.checkpoint, trial.step = latest.path, latest.step
    return trial
