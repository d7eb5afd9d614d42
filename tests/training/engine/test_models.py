from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeper.datasets.base import LearningTask
from sweeper.tracking import save_model
from sweeper.training.engine.keras_model import build_network, with_probabilities
from sweeper.training.engine.recurrence import CELLS
from sweeper.training.hparams import RNNParams

TASK = LearningTask(8, 8, 10)


@pytest.mark.parametrize("cell", CELLS)
def test_saved_classifier_loads_safely_and_gives_probabilities(cell: str, tensorflow: Any, tmp_path: Path) -> None:
    import keras
    import numpy as np

    params = RNNParams(cell=cell, units=4, bidirectional=True, layer_norm=True, dropout=0.2)
    model = build_network(params, TASK)
    save_model(with_probabilities(model), tmp_path)
    loaded = keras.saving.load_model(tmp_path / "data/model.keras", safe_mode=True)
    pixels = np.random.default_rng(0).uniform(0, 255, (5, 8, 8)).astype("float32")
    probabilities = loaded(pixels).numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(probabilities, keras.ops.softmax(model(pixels)).numpy(), atol=1e-6)
