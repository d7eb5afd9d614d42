"""The files that image datasets come in, .npz and IDX: their heads are checked first, their arrays read later.

A head tells what a file claims to hold, so a file that is no such file, is cut short or claims too much is found
within milliseconds, and no more memory is taken than the expected arrays need. Every function raises BrokenFileError,
whose text continues the file's name.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sweeper.core.text import first_line, format_list

Array = Any
Shape = tuple[int, ...]

_ZIP, _GZIP = b"PK", b"\x1f\x8b"

_BEGINNINGS = {
    b"<": "a web page",
    b"{": "a JSON document",
    b"version https://git-lfs": "a pointer of Git LFS (run: git lfs pull)",
    b"\x93NUMPY": "a single array (.npy)",
    b"\x80": "a pickle",
    _GZIP: "packed with gzip",
    _ZIP: "a zip file that is cut short or damaged",
    b"\0\0\x08": "an IDX file",
}
"""What a file is, by its first bytes."""


class BrokenFileError(ValueError):
    """A file is not what its name promises. The text continues the file's name: "is cut short"."""


def check_npz(path: Path, shapes: Mapping[str, Shape]) -> None:
    """Check that a file claims to be an .npz with arrays of numbers in these shapes."""
    from numpy.lib import format as npy

    with _explained():
        if not zipfile.is_zipfile(path):
            raise BrokenFileError(f"is no .npz file, but {_kind_of(path)}")
        with zipfile.ZipFile(path) as archive:
            held = {name.removesuffix(".npy") for name in archive.namelist()}
            for key, expected in shapes.items():
                if key not in held:
                    raise BrokenFileError(f"has no array {key}; it holds {format_list(sorted(held))}")
                with archive.open(f"{key}.npy") as file:
                    version = npy.read_magic(file)
                    read_head = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                    shape, _, dtype = read_head(file)
                if dtype.hasobject:
                    raise BrokenFileError(f"has Python objects (a pickle) as {key}, which are never loaded")
                if shape != expected or dtype.kind not in "uif":
                    raise BrokenFileError(f"has {key} of shape {shape} and type {dtype}, not {expected} and uint8")


def read_npz(path: Path, keys: tuple[str, ...]) -> dict[str, Array]:
    """Read the arrays of a checked .npz file."""
    import numpy as np

    with _explained(), np.load(path, allow_pickle=False) as data:
        return {key: np.ascontiguousarray(data[key], dtype=np.uint8) for key in keys}


def check_idx(path: Path, shape: Shape) -> None:
    """Check that a file, plain or packed with gzip, claims to be IDX with bytes of this shape, and has its size."""
    with _explained():
        with path.open("rb") as plain:
            is_packed = plain.read(2) == _GZIP
            size = plain.seek(0, os.SEEK_END)
            if is_packed:  # the last four bytes are the size of the content
                plain.seek(-4, os.SEEK_END)
                (size,) = struct.unpack("<I", plain.read(4))
        with _open_idx(path) as file:
            _read_head(file, path, shape)
        if size != _size_of(shape):
            raise BrokenFileError(f"is cut short or damaged: it has {size:,} bytes, not {_size_of(shape):,}")


def read_idx(path: Path, shape: Shape) -> Array:
    """Read the array of a checked IDX file."""
    import numpy as np

    with _explained(), _open_idx(path) as file:
        _read_head(file, path, shape)
        content = file.read(math.prod(shape) + 1)
        if len(content) != math.prod(shape):
            raise BrokenFileError(f"is cut short or damaged: it has another size than {_size_of(shape):,} bytes")
        return np.frombuffer(content, np.uint8).reshape(shape)


def _read_head(file: IO[bytes], path: Path, expected: Shape) -> None:
    """Read two zero bytes, the type (8: uint8), the number of axes, and their sizes as big-endian uint32."""
    head = file.read(4)
    if len(head) < 4 or head[:3] != b"\0\0\x08":
        raise BrokenFileError(f"is no IDX file of bytes, but {_kind_of(path)}")
    shape = struct.unpack(f">{head[3]}I", file.read(4 * head[3]))
    if shape != expected:
        raise BrokenFileError(f"has an array of shape {shape}, not {expected}")


def _size_of(shape: Shape) -> int:
    return 4 + 4 * len(shape) + math.prod(shape)


def _open_idx(path: Path) -> IO[bytes]:
    """Open an IDX file by its content, because browsers and tools unpack a file and keep the .gz in its name."""
    with path.open("rb") as plain:
        is_packed = plain.read(2) == _GZIP
    return gzip.open(path) if is_packed else path.open("rb")  # type: ignore[return-value]


def _kind_of(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(200)
    if not start:
        return "an empty file"
    other = f"something else (it begins with {start[:12]!r})"
    return next((kind for beginning, kind in _BEGINNINGS.items() if start.lstrip().startswith(beginning)), other)


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what zipfile, zlib, gzip and numpy raise for damaged bytes, which is nearly anything, into one error."""
    try:
        yield
    except BrokenFileError:
        raise
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise BrokenFileError(
            f"cannot be read ({reason})" if reason else f"is damaged ({first_line(error)})"
        ) from error
