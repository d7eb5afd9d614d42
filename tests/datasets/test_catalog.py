from __future__ import annotations

import functools
import gzip
import hashlib
import io
import logging
import os
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from sweeper.core.errors import DatasetError
from sweeper.datasets import archives
from sweeper.datasets.archives import ARRAYS, FASHION_MNIST, IDX, MNIST, Archive, DatasetMissingError
from sweeper.datasets.catalog import AnyDataset, Digits, FashionMnist, Mnist

REAL = Path(os.environ.get("SWEEPER_DATA_DIR") or Path.home() / ".keras/datasets") / "mnist.npz"


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data anywhere, and a proxy that refuses every connection."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("SWEEPER_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    """Arrays of MNIST's shapes, and nearly empty, so that they pack well."""
    arrays = {
        "x_train": np.zeros((60_000, 28, 28), np.uint8),
        "y_train": np.arange(60_000).astype(np.uint8) % 10,
        "x_test": np.ones((10_000, 28, 28), np.uint8),
        "y_test": np.arange(10_000).astype(np.uint8) % 10,
    }
    arrays["x_train"][:, 0, 0] = arrays["y_train"]
    return arrays


@pytest.fixture(scope="module")
def toy(published: dict[str, Any]) -> Archive:
    sums = {key: hashlib.sha256(array.tobytes()).hexdigest() for key, array in published.items()}
    return Archive("toy", cache=".", remote=("toy.npz",), arrays=sums, server="https://unknown.invalid/")


def as_idx(array: Any) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + bytes(array)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A folder served over HTTP, in place of the one that holds the originals."""
    (tmp_path / "served").mkdir()
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    handler.log_message = lambda *args: None  # type: ignore[attr-defined]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/", tmp_path / "served"
        http.shutdown()


def test_digits_are_split_the_same_way_for_ever() -> None:
    data = Digits().load()
    assert data.digest == "46dc5349b11f1dfcfdbe2d570eb77e78cc5ca829a5e5e144e953b2c04163d754"
    assert [len(part) for part in (data.x_train, data.x_val, data.x_test)] == [1200, 297, 300]
    assert data.x_train.dtype == np.uint8 and data.x_train.max() == 255
    assert data.x_train.shape[1:] == (8, 8) and set(data.y_train) == set(range(Digits().task.outputs))


def test_smaller_sizes_take_the_first_samples_and_have_another_digest() -> None:
    whole, few = Digits().load(), Digits(train=5, validation=6, test=7).load()
    for part, size in (("train", 5), ("val", 6), ("test", 7)):
        assert (getattr(few, f"x_{part}") == getattr(whole, f"x_{part}")[:size]).all()
        assert (getattr(few, f"y_{part}") == getattr(whole, f"y_{part}")[:size]).all()
    assert few.digest != whole.digest


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "digits"])
def test_a_dataset_is_chosen_by_its_type_and_refuses_unknown_keys(name: str) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(AnyDataset)
    dataset = adapter.validate_python({"type": name, "train": 10})
    assert dataset.type == name and dataset.task.outputs == len(dataset.labels) == 10
    assert adapter.validate_python(dataset.model_dump(mode="json")) == dataset
    with pytest.raises(ValidationError):
        adapter.validate_python({"type": name, "size": 10})
    with pytest.raises(ValidationError):
        adapter.validate_python({"type": name, "train": 55_001})


@pytest.mark.parametrize("dataset", [Mnist(), FashionMnist()])
def test_a_dataset_that_cannot_be_had_says_where_it_was_sought(dataset: Any, tmp_path: Path) -> None:
    with pytest.raises(DatasetMissingError, match=f"{dataset.type} is not in {tmp_path}.*SWEEPER_DATA_DIR"):
        dataset.resolve()


def test_the_fallback_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        used = Mnist(fallback="digits", train=100, test=5_000).resolve()
    assert used == Digits(train=100, test=300)
    assert "mnist is not in" in caplog.text and "using digits instead" in caplog.text


def test_a_damaged_file_is_an_error_and_never_a_fallback(published: dict[str, Any], tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "mnist.npz", **published)
    dataset = Mnist(fallback="digits")
    assert dataset.resolve() is dataset
    with pytest.raises(DatasetError, match="x_train of mnist in .* is not what was published"):
        dataset.load()
    (tmp_path / "mnist.npz").write_bytes((tmp_path / "mnist.npz").read_bytes()[:10_000])
    with pytest.raises(DatasetError, match="is damaged"):
        dataset.load()


@pytest.mark.parametrize("folder", [".", "toy"])
@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_serve_plain_or_packed(
    published: dict[str, Any], toy: Archive, tmp_path: Path, packed: bool, folder: str
) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    for key, name in IDX.items():
        content = as_idx(published[key])
        path = tmp_path / folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content, 1) if packed else content)
    arrays = toy.read(toy.locate())
    assert all((arrays[key] == published[key]).all() for key in ARRAYS)


def test_a_look_alike_takes_only_the_published_files_and_not_those_of_mnist(
    published: dict[str, Any], tmp_path: Path
) -> None:
    for key, name in IDX.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(as_idx(published[key]), 1))
    with pytest.raises(DatasetMissingError):
        FASHION_MNIST.locate()
    (tmp_path / "fashion_mnist").mkdir()
    for name in IDX.values():
        (tmp_path / f"{name}.gz").rename(tmp_path / "fashion_mnist" / f"{name}.gz")
    with pytest.raises(DatasetError, match="train-images.*its MD5 is"):
        FashionMnist(fallback="digits").load()


def test_a_download_is_verified_before_it_enters_the_cache(
    published: dict[str, Any], toy: Archive, server: tuple[str, Path], tmp_path: Path
) -> None:
    url, served = server
    archive, cached = replace(toy, server=url), tmp_path / "keras/datasets/toy.npz"
    with pytest.raises(DatasetMissingError, match="404"):
        archive.locate()
    np.savez(served / "toy.npz", **{**published, "y_test": published["y_test"] + 1})
    with pytest.raises(DatasetError, match="not what was published"):
        archive.locate()
    assert list(cached.parent.iterdir()) == []
    np.savez_compressed(served / "toy.npz", **published)
    assert archive.locate() == (cached,) == archive.locate()
    assert [path.name for path in cached.parent.iterdir()] == ["toy.npz"]


@pytest.mark.skipif(not REAL.is_file(), reason="needs mnist.npz in SWEEPER_DATA_DIR or in Keras's cache")
def test_mnist_is_split_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_DATA_DIR", str(REAL.parent))
    data, whole = Mnist(train=1000).load(), MNIST.read((REAL,))
    assert [len(part) for part in (data.x_train, data.x_val, data.x_test)] == [1000, 5000, 10000]
    assert (data.x_val == whole["x_train"][:5000]).all() and (data.x_train == whole["x_train"][5000:6000]).all()
    assert data.source == str(REAL)


class Moody(BaseHTTPRequestHandler):
    """Serves `content`, each time after one of `moods`; then as it should."""

    content = b""
    moods: list[str] = []
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        mood = self.moods.pop(0) if self.moods else "well"
        if mood == "stall":
            time.sleep(1)
            return
        self.send_response({"busy": 503, "missing": 404}.get(mood, 200))
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[: 1000 if mood == "cut" else None])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def moody(published: dict[str, Any], toy: Archive, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """The toy dataset on a server in moods; its content is right."""
    packed = io.BytesIO()
    np.savez_compressed(packed, **published)
    monkeypatch.setattr(Moody, "content", packed.getvalue())
    monkeypatch.setattr(Moody, "asked", 0)
    monkeypatch.setattr(archives, "_TIMEOUT", 0.3)
    monkeypatch.setattr(archives, "_PAUSES", (0.05, 0.05))
    with ThreadingHTTPServer(("127.0.0.1", 0), Moody) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield replace(toy, server=f"http://127.0.0.1:{http.server_port}/")
        http.shutdown()


@pytest.mark.parametrize("mood", ["cut", "stall", "busy"])
def test_a_download_that_fails_twice_is_tried_a_third_time_and_no_more(
    moody: Archive, mood: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Moody, "moods", [mood] * 5)
    with pytest.raises(DatasetMissingError, match="cannot be downloaded"):
        moody.locate()
    assert Moody.asked == 3 and list((tmp_path / "keras/datasets").iterdir()) == []
    assert [path.name for path in moody.locate()] == ["toy.npz"]
    assert Moody.asked == 6


def test_what_the_server_does_not_have_is_asked_for_once(moody: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Moody, "moods", ["missing"])
    with pytest.raises(DatasetMissingError, match="404"):
        moody.locate()
    assert Moody.asked == 1


def test_of_many_that_want_a_dataset_one_downloads_it(moody: Archive) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: moody.locate(), range(4)))
    assert len(set(found)) == 1 and Moody.asked == 1
