from __future__ import annotations

import gzip
import io
import math
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeper.datasets.containers import BrokenFileError, check_idx, check_npz, read_idx, read_npz

SHAPES: dict[str, tuple[int, ...]] = {"x": (50, 4, 4), "y": (50,)}
ARRAYS = {name: np.arange(math.prod(shape)).astype(np.uint8).reshape(shape) for name, shape in SHAPES.items()}
HTML = b"<!DOCTYPE html><html><body>Please log in</body></html>"


def npz(**arrays: Any) -> bytes:
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    return packed.getvalue()


def zipped(**members: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return packed.getvalue()


def head(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"shape": shape, "fortran_order": False, "descr": descr})
    return content.getvalue()


def idx(array: Any) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def single_array() -> bytes:
    content = io.BytesIO()
    np.save(content, ARRAYS["x"])
    return content.getvalue()


WHOLE = npz(**ARRAYS)

BROKEN_NPZ = {
    "a web page": (HTML, "is no .npz file, but a web page"),
    "a web page after empty lines": (b"\n\n  " + HTML, "is no .npz file, but a web page"),
    "an empty file": (b"", "is no .npz file, but an empty file"),
    "a pickle": (pickle.dumps(ARRAYS), "is no .npz file, but a pickle"),
    "a single array": (single_array(), r"is no .npz file, but a single array \(.npy\)"),
    "a file packed again": (gzip.compress(WHOLE), "is no .npz file, but packed with gzip"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    "an error of a server": (b'{"message": "Not Found"}', "is no .npz file, but a JSON document"),
    "something else": (b"\x7fELF\x02", r"something else \(it begins with b'\\x7fELF\\x02'\)"),
    "a truncated file": (WHOLE[:-30], "is no .npz file, but a zip file that is cut short or damaged"),
    "half a file": (WHOLE[: len(WHOLE) // 2], "a zip file that is cut short"),
    "another archive": (npz(images=ARRAYS["x"], y=ARRAYS["y"]), "has no array x; it holds images, y"),
    "a pickled array": (npz(**ARRAYS | {"x": np.array([{}])}), r"has Python objects \(a pickle\) as x"),
    "an array of 931 GiB": (
        zipped(x=head((10**12,)), y=head((50,))),
        r"has x of shape \(1000000000000,\) and type uint8, not \(50, 4, 4\) and uint8",
    ),
    "an array of text": (npz(**ARRAYS | {"y": np.full(50, "seven")}), "has y of shape .50,. and type <U5"),
    "a head without an array": (zipped(x=b"", y=b""), "is damaged"),
    "an array without its data": (zipped(x=head((50, 4, 4)), y=head((50,))), "is damaged"),
}


@pytest.mark.parametrize("kind", BROKEN_NPZ)
def test_broken_npz_is_named_as_what_it_is(tmp_path: Path, kind: str) -> None:
    content, message = BROKEN_NPZ[kind]
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(BrokenFileError, match=message):
        check_npz(tmp_path / "x.npz", SHAPES)
        read_npz(tmp_path / "x.npz", ("x", "y"))


def test_numbers_of_other_types_are_read_as_bytes(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=ARRAYS["x"].astype(np.float32), y=ARRAYS["y"].astype(np.int64))
    check_npz(tmp_path / "x.npz", SHAPES)
    assert all((array == ARRAYS[key]).all() for key, array in read_npz(tmp_path / "x.npz", ("x", "y")).items())


BROKEN_IDX = {
    "a web page": (HTML, "is no IDX file of bytes, but a web page"),
    "a packed web page": (gzip.compress(HTML), "is no IDX file of bytes"),
    "an empty file": (b"", "is no IDX file of bytes, but an empty file"),
    "an archive": (WHOLE, "is no IDX file of bytes, but a zip file"),
    "labels for images": (idx(ARRAYS["y"]), r"has an array of shape \(50,\), not \(50, 4, 4\)"),
    "an array of 931 GiB": (idx(np.zeros((0, 4, 4), np.uint8))[:4] + struct.pack(">3I", 10**6, 10**3, 10**3), "has an"),
    "a truncated file": (idx(ARRAYS["x"])[:-1], "is cut short or damaged: it has 815 bytes, not 816"),
    "a file with more": (idx(ARRAYS["x"]) + b"x", "it has 817 bytes, not 816"),
    "a truncated packed file": (gzip.compress(idx(ARRAYS["x"]))[:-10], "is cut short or damaged"),
    "two bytes of a packed file": (b"\x1f\x8b", "cannot be read|is damaged"),
    "a packed file with more": (gzip.compress(idx(ARRAYS["x"]) + b"x"), "it has 817 bytes, not 816"),
    "a packed file that lies about its size": (
        gzip.compress(idx(ARRAYS["x"]) + bytes(100_000))[:-4] + struct.pack("<I", 816),
        "it has another size than 816 bytes",
    ),
    "a packed file with a flipped bit": (
        bytearray(gzip.compress(idx(ARRAYS["x"])))[:-8] + b"\0\0\0\0" + struct.pack("<I", 816),
        "is damaged .CRC check failed",
    ),
}


@pytest.mark.parametrize("kind", BROKEN_IDX)
def test_broken_idx_file_is_named_as_what_it_is(tmp_path: Path, kind: str) -> None:
    content, message = BROKEN_IDX[kind]
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(BrokenFileError, match=message):
        check_idx(tmp_path / "x", SHAPES["x"])
        read_idx(tmp_path / "x", SHAPES["x"])


@pytest.mark.parametrize("name", ["x", "x.gz"])
@pytest.mark.parametrize("is_packed", [True, False])
def test_idx_file_is_unpacked_by_its_content(tmp_path: Path, name: str, is_packed: bool) -> None:
    content = idx(ARRAYS["x"])
    (tmp_path / name).write_bytes(gzip.compress(content) if is_packed else content)
    check_idx(tmp_path / name, SHAPES["x"])
    assert (read_idx(tmp_path / name, SHAPES["x"]) == ARRAYS["x"]).all()


def test_file_without_permission_is_named_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(BrokenFileError, match="cannot be read .Is a directory"):
        check_idx(tmp_path / "x", SHAPES["x"])
    with pytest.raises(BrokenFileError, match="cannot be read .Is a directory|is no .npz file"):
        check_npz(tmp_path / "x", SHAPES)


def read_both(path: Path) -> Any:
    check_npz(path, SHAPES)
    return read_npz(path, ("x", "y"))["x"]


def read_one(path: Path) -> Any:
    check_idx(path, SHAPES["x"])
    return read_idx(path, SHAPES["x"])


@pytest.mark.filterwarnings("ignore")  # zipfile warns of names that occur twice
@pytest.mark.parametrize(
    ("read", "content"), [(read_both, WHOLE), (read_one, idx(ARRAYS["x"])), (read_one, gzip.compress(idx(ARRAYS["x"])))]
)
def test_damaged_bytes_raise_nothing_else_than_that(
    tmp_path: Path, read: Callable[[Path], Any], content: bytes
) -> None:
    rng, path = random.Random(0), tmp_path / "x"
    for _ in range(1_000):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 1, 1, 20])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged[: rng.choice([None, None, rng.randrange(len(damaged))])])
        try:
            assert read(path).shape == SHAPES["x"]
        except BrokenFileError as error:
            assert "\n" not in str(error)


def test_pipe_is_never_opened_as_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sweeper.datasets.archives import MNIST

    monkeypatch.setenv("SWEEPER_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    os.mkfifo(tmp_path / "mnist.npz")
    assert MNIST._files_in(tmp_path) is None
