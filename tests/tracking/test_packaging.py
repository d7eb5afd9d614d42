from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.tracking import read_evaluation, store_evaluation
from sweeper.tracking.packaging import PACKED, digest

METRICS = {"test_accuracy": 0.9, "test_loss": 0.1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a model, with two files as the packed model."""
    packed = tmp_path / "champion" / PACKED
    (packed / "data").mkdir(parents=True)
    (packed / "MLmodel").write_text("flavors: {}\n")
    (packed / "data" / "model.keras").write_bytes(b"weights")
    return packed.parent


def test_evaluation_is_read_as_it_was_stored(folder: Path) -> None:
    stored = store_evaluation(folder, 7, METRICS)
    assert stored is not None
    assert read_evaluation(folder, stored) == (7, METRICS)
    assert sorted(path.name for path in folder.iterdir()) == ["evaluation.json", PACKED]


def test_evaluation_stored_again_replaces_the_one_before(folder: Path) -> None:
    first = store_evaluation(folder, 7, METRICS)
    second = store_evaluation(folder, 8, {"test_accuracy": 0.95})
    assert first is not None and second is not None and first.split()[0] == second.split()[0] == digest(folder)
    assert read_evaluation(folder, first) is None
    assert read_evaluation(folder, second) == (8, {"test_accuracy": 0.95})


def test_evaluation_without_a_model_is_read_until_there_is_one(tmp_path: Path) -> None:
    stored = store_evaluation(tmp_path, 7, METRICS)
    assert stored.startswith("- ") and read_evaluation(tmp_path, stored) == (7, METRICS)
    assert read_evaluation(tmp_path, "") is read_evaluation(tmp_path, None) is None
    (tmp_path / PACKED).mkdir()
    assert read_evaluation(tmp_path, stored) is None
    (tmp_path / PACKED / "model").symlink_to("/etc/passwd")
    assert read_evaluation(tmp_path, stored) is None


def change_a_file(folder: Path) -> None:
    (folder / PACKED / "data" / "model.keras").write_bytes(b"weightS")


def add_a_file(folder: Path) -> None:
    (folder / PACKED / "more.py").write_text("import os\n")


def rename_a_file(folder: Path) -> None:
    (folder / PACKED / "MLmodel").rename(folder / PACKED / "MLmodel2")


def replace_a_file_by_a_link(folder: Path) -> None:
    model = folder / PACKED / "data" / "model.keras"
    target = model.rename(folder / "model.keras")
    model.symlink_to(target)


def add_a_pipe(folder: Path) -> None:
    os.mkfifo(folder / PACKED / "pipe")


def replace_the_model_by_a_link(folder: Path) -> None:
    (folder / PACKED).rename(folder / "elsewhere")
    (folder / PACKED).symlink_to(folder / "elsewhere")


def change_a_metric(folder: Path) -> None:
    text = (folder / "evaluation.json").read_text()
    (folder / "evaluation.json").write_text(text.replace("0.9", "0.99"))


def replace_the_metrics_by_a_link(folder: Path) -> None:
    (folder / "evaluation.json").rename(folder.parent / "evaluation.json")
    (folder / "evaluation.json").symlink_to(folder.parent / "evaluation.json")


def replace_the_metrics_by_an_endless_device(folder: Path) -> None:
    (folder / "evaluation.json").unlink()
    (folder / "evaluation.json").symlink_to("/dev/zero")


def replace_the_metrics_by_a_pipe(folder: Path) -> None:
    (folder / "evaluation.json").unlink()
    os.mkfifo(folder / "evaluation.json")


def enlarge_the_metrics(folder: Path) -> None:
    os.truncate(folder / "evaluation.json", 1 << 40)


def delete_the_model(folder: Path) -> None:
    shutil.rmtree(folder / PACKED)


@pytest.mark.parametrize(
    "tamper", [change_a_file, add_a_file, rename_a_file, replace_a_file_by_a_link, delete_the_model]
)
def test_tampered_model_folder_makes_the_evaluation_invalid(folder: Path, tamper: Callable[[Path], None]) -> None:
    stored = store_evaluation(folder, 7, METRICS)
    tamper(folder)
    assert stored is not None and stored.split()[0] != digest(folder)
    assert read_evaluation(folder, stored or "") is None


@pytest.mark.parametrize(
    "tamper",
    [
        add_a_pipe,
        replace_the_model_by_a_link,
        change_a_metric,
        replace_the_metrics_by_a_link,
        replace_the_metrics_by_an_endless_device,
        replace_the_metrics_by_a_pipe,
        enlarge_the_metrics,
    ],
)
def test_evaluation_is_made_again_when_anything_about_it_changed(folder: Path, tamper: Callable[[Path], None]) -> None:
    stored = store_evaluation(folder, 7, METRICS)
    tamper(folder)
    assert read_evaluation(folder, stored or "") is None


def test_evaluation_of_an_older_version_is_read(folder: Path) -> None:
    store_evaluation(folder, 7, METRICS)
    assert read_evaluation(folder, digest(folder) or "") == (7, METRICS)


@pytest.mark.parametrize("expected", ["", "0" * 64, " " + "0" * 64])
def test_digest_of_another_model_makes_the_evaluation_invalid(folder: Path, expected: str) -> None:
    store_evaluation(folder, 7, METRICS)
    assert read_evaluation(folder, expected) is None


@pytest.mark.parametrize("length", [0, 1, 20, 60])
def test_torn_evaluation_is_not_read(folder: Path, length: int) -> None:
    stored = store_evaluation(folder, 7, METRICS)
    text = (folder / "evaluation.json").read_text()
    (folder / "evaluation.json").write_text(text[:length])
    assert read_evaluation(folder, stored or "") is None


@pytest.mark.parametrize(
    "nonsense",
    [
        b"null",
        b"[]",
        b"7",
        b'"trial"',
        b"{}",
        b'{"trial": 7}',
        b'{"trial": null, "metrics": {}}',
        b'{"trial": 7, "metrics": []}',
        b'{"trial": 7, "metrics": {"test_loss": "low"}}',
        b'{"trial": 7, "metrics": {"test_loss": null}}',
        b'{"trial": Infinity, "metrics": {}}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
    ],
)
def test_nonsense_is_not_read_as_an_evaluation(folder: Path, nonsense: bytes) -> None:
    stored = store_evaluation(folder, 7, METRICS)
    (folder / "evaluation.json").write_bytes(nonsense)
    assert read_evaluation(folder, stored or "") is None


def test_missing_evaluation_is_none(tmp_path: Path) -> None:
    assert read_evaluation(tmp_path, "0" * 64) is None
