from __future__ import annotations

import gzip
import hashlib
import io
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeper.core.errors import DatasetError
from sweeper.datasets import archives
from sweeper.datasets.archives import ARRAYS, FASHION_MNIST, IDX, MNIST, Archive, DatasetMissingError
from sweeper.datasets.catalog import FashionMnist, Mnist


@pytest.fixture(scope="module")
def content(published: dict[str, Any]) -> bytes:
    """Return the file that the toy archive publishes."""
    packed = io.BytesIO()
    np.savez_compressed(packed, **published)
    return packed.getvalue()


@pytest.fixture(scope="module")
def toy(published: dict[str, Any], content: bytes) -> Archive:
    sums = {key: hashlib.sha256(array.tobytes()).hexdigest() for key, array in published.items()}
    files = {"toy.npz": hashlib.sha256(content).hexdigest()}
    return Archive("toy", cache=".", folders=("toy", "."), files=files, arrays=sums, server="http://127.0.0.1:9/")


class FlakyServer(BaseHTTPRequestHandler):
    """Serves `content`, after it failed once for each of `faults`."""

    content = b""
    faults: list[str] = []
    requests = 0

    def do_GET(self) -> None:
        type(self).requests += 1
        fault = self.faults.pop(0) if self.faults else "none"
        if fault == "stall":
            time.sleep(1)
            return
        self.send_response({"busy": 503, "missing": 404}.get(fault, 200))
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[: 1000 if fault == "cut" else None])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def served(toy: Archive, content: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """Serve the toy archive over HTTP."""
    monkeypatch.setattr(FlakyServer, "content", content)
    monkeypatch.setattr(FlakyServer, "requests", 0)
    monkeypatch.setattr(archives, "READ_TIMEOUT_S", 0.3)
    with ThreadingHTTPServer(("127.0.0.1", 0), FlakyServer) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield replace(toy, server=f"http://127.0.0.1:{http.server_port}/")
        http.shutdown()


def as_idx(array: Any) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + bytes(array)


@pytest.mark.parametrize(("folder", "separator"), [(".", "-"), ("toy", "-"), (".", "."), ("toy", ".")])
@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_accepted_under_their_usual_names(
    published: dict[str, Any], toy: Archive, tmp_path: Path, packed: bool, folder: str, separator: str
) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    for key, name in IDX.items():
        content, usual = as_idx(published[key]), name.replace("-idx", f"{separator}idx")
        path = tmp_path / folder / (f"{usual}.gz" if packed else usual)
        path.write_bytes(gzip.compress(content, 1) if packed else content)
    toy.check(toy.locate())
    arrays = toy.read(toy.locate())
    assert all((arrays[key] == published[key]).all() for key in ARRAYS)


@pytest.mark.parametrize(("archive", "folder"), [(MNIST, "MNIST/raw"), (FASHION_MNIST, "FashionMNIST/raw")])
def test_folder_that_torchvision_made_is_found(archive: Archive, folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir(parents=True)
    for name in IDX.values():
        (tmp_path / folder / f"{name}.gz").touch()
    assert [path.parent for path in archive.locate()] == [tmp_path / folder] * 4


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["train_images.gz", "labels.csv"], "labels.csv, train_images.gz"),
        (["train-images-idx3-ubyte", "train-labels-idx1-ubyte"], "train-images-idx3-ubyte, train-labels-idx1-ubyte"),
        (["mnist/images.bin"], "images.bin"),
        ([f"{number:02d}" for number in range(25)], "18, 19 and 5 more"),
    ],
)
def test_unknown_files_in_the_named_folder_are_listed_and_cause_no_fallback(
    tmp_path: Path, names: list[str], shown: str
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".hidden").touch()
    with pytest.raises(DatasetError, match=rf"{tmp_path} has .*; mnist needs mnist.npz, or train-images-idx3") as seen:
        Mnist(fallback="digits").resolve()
    assert f"{shown}; mnist needs" in str(seen.value)
    assert "unset SWEEPER_DATA_DIR" in str(seen.value) and seen.value.exit_code == 2


def test_data_in_the_cache_is_used_although_the_named_folder_has_none(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "keras/datasets").mkdir(parents=True)
    (tmp_path / "keras/datasets/mnist.npz").touch()
    assert MNIST.locate() == (tmp_path / "keras/datasets/mnist.npz",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html>", "mnist.npz is no .npz file, but a web page"),
        (b"PK\x03\x04 cut", "mnist.npz is no .npz file, but a zip file that is cut short or damaged"),
    ],
)
def test_broken_file_in_the_named_folder_causes_no_fallback(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "mnist.npz").write_bytes(content)
    with pytest.raises(DatasetError, match=f"mnist cannot be used: {tmp_path}/{message}. To mend it, remove") as seen:
        Mnist(fallback="digits").resolve()
    assert seen.value.exit_code == 2


def test_fashion_mnist_accepts_only_its_own_published_files(published: dict[str, Any], tmp_path: Path) -> None:
    for key, name in IDX.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(as_idx(published[key]), 1))
    with pytest.raises(DatasetMissingError):
        FASHION_MNIST.locate()
    (tmp_path / "fashion_mnist").mkdir()
    for name in IDX.values():
        (tmp_path / f"{name}.gz").rename(tmp_path / "fashion_mnist" / f"{name}.gz")
    with pytest.raises(DatasetError, match="train-images.*its MD5 is"):
        FashionMnist(fallback="digits").load()


def test_damaged_file_is_an_error_and_causes_no_fallback(published: dict[str, Any], tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "mnist.npz", **published)
    dataset = Mnist(fallback="digits")
    assert dataset.resolve() is dataset
    with pytest.raises(DatasetError, match="x_train of mnist in .* is not what was published"):
        dataset.load()
    (tmp_path / "mnist.npz").write_bytes((tmp_path / "mnist.npz").read_bytes()[:10_000])
    for use in (dataset.resolve, dataset.load):
        with pytest.raises(DatasetError, match="mnist.npz is no .npz file, but a zip file that is cut short"):
            use()


def test_download_enters_the_cache_and_prints_nothing(
    served: Archive, published: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cached = tmp_path / "keras/datasets/toy.npz"
    assert served.locate() == (cached,) == served.locate()
    assert FlakyServer.requests == 1 and [path.name for path in cached.parent.iterdir()] == ["toy.npz"]
    assert (served.read((cached,))["x_train"] == published["x_train"]).all()
    assert capfd.readouterr() == ("", "")


def test_every_file_of_an_archive_is_downloaded(served: Archive, content: bytes, tmp_path: Path) -> None:
    checksum = f"md5:{hashlib.md5(content).hexdigest()}"
    archive = replace(served, cache="toys", files={f"{stem}.gz": checksum for stem in IDX.values()}, arrays=None)
    assert archive.locate() == tuple(tmp_path / f"keras/datasets/toys/{stem}.gz" for stem in IDX.values())
    assert FlakyServer.requests == 4


def test_download_with_another_checksum_stays_out_of_the_cache(
    served: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FlakyServer, "content", b"<html>Please log in</html>")
    with pytest.raises(
        DatasetError, match=r"toy.npz is not what was published: SHA256 .* got .*SWEEPER_DATA_DIR"
    ) as seen:
        served.locate()
    assert not isinstance(seen.value, DatasetMissingError)
    assert list((tmp_path / "keras/datasets").iterdir()) == []


REASONS = {
    "cut": r"1000 bytes read, \d+ more expected",
    "stall": "timed out",
    "busy": "503 Service Unavailable",
    "missing": "404 Not Found",
}


@pytest.mark.parametrize("fault", REASONS)
def test_failed_download_is_retried_once(
    served: Archive, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FlakyServer, "faults", [fault] * 3)
    with pytest.raises(DatasetMissingError, match=rf"cannot be downloaded from .*/toy\.npz \(.*{REASONS[fault]}.*\)"):
        served.locate()
    assert FlakyServer.requests == 2 and list((tmp_path / "keras/datasets").iterdir()) == []
    assert [path.name for path in served.locate()] == ["toy.npz"]
    assert FlakyServer.requests == 4


def test_simultaneous_downloads_end_with_the_same_file(served: Archive, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: served.locate(), range(4)))
    assert found == {(tmp_path / "keras/datasets/toy.npz",)}
    assert [path.name for path in (tmp_path / "keras/datasets").iterdir()] == ["toy.npz"]


@pytest.mark.parametrize(
    ("server", "reason"), [("http://127.0.0.1:9/", "Connection refused"), ("http://host.invalid/", "[Nn]ame")]
)
def test_missing_network_is_reported_within_seconds(toy: Archive, server: str, reason: str) -> None:
    began = time.monotonic()
    with pytest.raises(DatasetMissingError, match=rf"{server}toy.npz \([^()]*{reason}[^()]*\); put its files"):
        replace(toy, server=server).locate()
    assert time.monotonic() - began < 10


def test_cache_that_cannot_be_written_is_named(toy: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".occupied").touch()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / ".occupied"))
    with pytest.raises(
        DatasetMissingError, match=r"cannot be kept in .*occupied.* \(Not a directory\); set KERAS_HOME"
    ):
        toy.locate()


def test_data_folder_that_does_not_exist_is_named(toy: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_DATA_DIR", "/nowhere")
    with pytest.raises(DatasetMissingError, match="SWEEPER_DATA_DIR is /nowhere, and there is no such folder"):
        toy.locate()


def test_data_folder_that_cannot_be_read_is_named(toy: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_DATA_DIR", "/" + "a" * 300)
    with pytest.raises(DatasetError, match="toy: /aaa.* cannot be read .File name too long"):
        toy.locate()


def test_checksum_of_mnist_is_the_one_that_keras_uses() -> None:
    keras = find_spec("keras")
    assert keras is not None and keras.origin is not None
    source = (Path(keras.origin).parent / "src/datasets/mnist.py").read_text()
    assert MNIST.files["mnist.npz"] in source
