from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from sweeper.datasets.archives import MNIST, DatasetMissingError
from sweeper.datasets.catalog import AnyDataset, Digits, FashionMnist, Mnist

REAL = Path(os.environ.get("SWEEPER_DATA_DIR") or Path.home() / ".keras/datasets") / "mnist.npz"


def test_split_of_digits_never_changes() -> None:
    data = Digits().load()
    assert data.digest == "46dc5349b11f1dfcfdbe2d570eb77e78cc5ca829a5e5e144e953b2c04163d754"
    assert [len(part) for part in (data.x_train, data.x_val, data.x_test)] == [1200, 297, 300]
    assert data.x_train.dtype == np.uint8 and data.x_train.max() == 255
    assert data.x_train.shape[1:] == (8, 8) and set(data.y_train) == set(range(Digits().task.outputs))


def test_validation_part_follows_the_training_part_where_both_are_trained_on() -> None:
    data = Digits(train=20, validation=10, test=5).load()
    both = data.with_validation()
    assert (len(both.x_train), len(both.y_train), len(both.x_val), len(both.x_test)) == (30, 30, 10, 5)
    np.testing.assert_array_equal(both.x_train, np.concatenate([data.x_train, data.x_val]))
    np.testing.assert_array_equal(both.y_train[20:], data.y_val)
    assert both.digest != data.digest


def test_smaller_sizes_take_the_first_samples_and_change_the_digest() -> None:
    whole, few = Digits().load(), Digits(train=5, validation=6, test=7).load()
    for part, size in (("train", 5), ("val", 6), ("test", 7)):
        assert (getattr(few, f"x_{part}") == getattr(whole, f"x_{part}")[:size]).all()
        assert (getattr(few, f"y_{part}") == getattr(whole, f"y_{part}")[:size]).all()
    assert few.digest != whole.digest


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "digits"])
def test_dataset_is_chosen_by_its_type_and_refuses_unknown_keys(name: str) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(AnyDataset)
    dataset = adapter.validate_python({"type": name, "train": 10})
    assert dataset.type == name and dataset.task.outputs == len(dataset.labels) == 10
    assert adapter.validate_python(dataset.model_dump(mode="json")) == dataset
    with pytest.raises(ValidationError):
        adapter.validate_python({"type": name, "size": 10})
    with pytest.raises(ValidationError):
        adapter.validate_python({"type": name, "train": 55_001})


@pytest.mark.parametrize("dataset", [Mnist(), FashionMnist()])
def test_missing_dataset_names_the_folders_that_were_searched(dataset: Any, tmp_path: Path) -> None:
    with pytest.raises(DatasetMissingError, match=f"{dataset.type} is not in {tmp_path}.*SWEEPER_DATA_DIR"):
        dataset.resolve()


def test_fallback_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        used = Mnist(fallback="digits", train=100, test=5_000).resolve()
    assert used == Digits(train=100, test=300)
    assert "mnist is not in" in caplog.text and "using digits instead" in caplog.text


@pytest.mark.skipif(not REAL.is_file(), reason="needs mnist.npz in SWEEPER_DATA_DIR or in Keras's cache")
def test_split_of_mnist_never_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_DATA_DIR", str(REAL.parent))
    data, whole = Mnist(train=1000).load(), MNIST.read((REAL,))
    assert [len(part) for part in (data.x_train, data.x_val, data.x_test)] == [1000, 5000, 10000]
    assert (data.x_val == whole["x_train"][:5000]).all() and (data.x_train == whole["x_train"][5000:6000]).all()
    assert data.source == str(REAL)
