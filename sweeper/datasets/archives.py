"""Finds, fetches, reads and verifies the files of the image datasets; numpy is the heaviest thing it needs."""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import os
import shutil
import socket
import struct
import tempfile
import time
import urllib.request
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from sweeper.core.errors import DatasetError
from sweeper.core.files import exclusive_lock

Array = Any


ARRAYS = ("x_train", "y_train", "x_test", "y_test")


IDX = dict(
    zip(
        ARRAYS,
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
        strict=True,
    )
)


_SHAPES = {"x_train": (60000, 28, 28), "y_train": (60000,), "x_test": (10000, 28, 28), "y_test": (10000,)}


_TIMEOUT = 10.0


_PAUSES = (0.5, 2.0)
"""Seconds between a first, second and third attempt at a download."""


logger = logging.getLogger(__name__)


class DatasetMissingError(DatasetError):
    """The files of a dataset are neither here nor to be had: found out before anything is started."""

    exit_code = 2


@dataclass(frozen=True)
class Archive:
    """The published files of one dataset, where they may lie, and what they must hash to.

    `arrays` are SHA-256 sums of the raw bytes of the four arrays: they hold for any container. Where none are
    published, `gzipped` are the MD5 sums of the four IDX files as published, and only those files are accepted.
    """

    name: str
    cache: str  # the folder under Keras's datasets folder
    remote: tuple[str, ...]  # file names on the server, and in the cache
    arrays: Mapping[str, str] | None = None
    gzipped: Mapping[str, str] | None = None
    server: str = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"

    def locate(self) -> tuple[Path, ...]:
        """The dataset's files on this machine: one .npz or four IDX files, fetched into Keras's cache if need be."""
        here = os.environ.get("SWEEPER_DATA_DIR")
        if here and not Path(here).is_dir():
            raise DatasetMissingError(f"{self.name}: SWEEPER_DATA_DIR is {here}, and there is no such folder")
        folders = [Path(here) / self.name, Path(here)] if here else []
        # The IDX files of MNIST and of its look-alikes bear the same names: only MNIST's may lie in the folder itself.
        folders = folders if self.arrays else folders[:1]
        for folder in (*folders, self._cache()):
            if found := self._files_in(folder):
                return found
        return self._fetch(here)

    def read(self, files: tuple[Path, ...]) -> dict[str, Array]:
        """The four arrays (uint8) of located files, verified.

        Raises:
            DatasetError: a file is damaged or is not what was published.
        """
        place = files[0] if len(files) == 1 else files[0].parent
        try:
            contents = [path.read_bytes() for path in files]
            arrays = _read_npz(contents[0]) if len(files) == 1 else self._read_idx(files, contents)
        except (OSError, EOFError, KeyError, ValueError, struct.error, zlib.error) as error:
            raise DatasetError(f"{self.name} in {place} is damaged: {error}") from error
        for key in ARRAYS:
            if arrays[key].shape != _SHAPES[key]:
                raise DatasetError(f"{key} of {self.name} in {place} has shape {arrays[key].shape}, not {_SHAPES[key]}")
            if self.arrays and (seen := hashlib.sha256(arrays[key].tobytes()).hexdigest()) != self.arrays[key]:
                raise DatasetError(
                    f"{key} of {self.name} in {place} is not what was published: its SHA-256 is {seen}, "
                    f"but must be {self.arrays[key]}; remove the file, or point SWEEPER_DATA_DIR elsewhere"
                )
        return arrays

    def _cache(self) -> Path:
        home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
        return Path(home) / "datasets" / self.cache

    def _files_in(self, folder: Path) -> tuple[Path, ...] | None:
        if self.arrays and (npz := folder / f"{self.name}.npz").is_file():
            return (npz,)
        endings = ("", ".gz") if self.arrays else (".gz",)
        choices = [[folder / f"{stem}{ending}" for ending in endings] for stem in IDX.values()]
        found = [next((path for path in paths if path.is_file()), None) for paths in choices]
        return tuple(path for path in found if path) if all(found) else None

    def _read_idx(self, files: tuple[Path, ...], contents: list[bytes]) -> dict[str, Array]:
        arrays = {}
        for key, path, content in zip(ARRAYS, files, contents, strict=True):
            if self.gzipped and (seen := hashlib.md5(content, usedforsecurity=False).hexdigest()) != self.gzipped[key]:
                raise DatasetError(
                    f"{path} is not what was published: its MD5 is {seen}, but must be {self.gzipped[key]}; remove it"
                )
            arrays[key] = _parse_idx(gzip.decompress(content) if path.suffix == ".gz" else content)
        return arrays

    def _fetch(self, here: str | None) -> tuple[Path, ...]:
        """Download into a folder beside, verify, and only then move into the cache."""
        cache = self._cache()
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatasetMissingError(
                f"{self.name} is not here, and cannot be kept in {cache} ({error.strerror}); set KERAS_HOME to another "
                "folder, or SWEEPER_DATA_DIR to one with its files"
            ) from error
        with exclusive_lock(cache), tempfile.TemporaryDirectory(prefix=".fetching-", dir=cache) as beside:
            if found := self._files_in(cache):  # another process fetched them meanwhile
                return found
            for name in self.remote:
                try:
                    _download(self.server + name, Path(beside, name))
                except (OSError, HTTPException) as error:
                    looked = " and ".join(str(place) for place in (here, cache) if place)
                    raise DatasetMissingError(
                        f"{self.name} is not in {looked}, and cannot be downloaded from {self.server}{name} ({error}); "
                        "put its files in a folder and set SWEEPER_DATA_DIR to it, or use the digits dataset"
                    ) from error
            found = self._files_in(Path(beside))
            assert found is not None
            self.read(found)
            return tuple(path.rename(cache / path.name) for path in found)


def _download(url: str, target: Path) -> None:
    """Fetch a file; what may be better in a moment is tried again."""
    for pause in (*_PAUSES, None):
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, target.open("wb") as file:
                shutil.copyfileobj(response, file, 1 << 20)
                announced = int(response.headers.get("Content-Length") or file.tell())
                if file.tell() != announced:  # urllib takes a connection that was cut for the end
                    raise ConnectionError(f"cut off after {file.tell():,} of {announced:,} bytes")
            return
        except (OSError, HTTPException) as error:
            if pause is None or _is_certain(error):
                raise
            logger.info("%s: %s; trying again", url, error)
            time.sleep(pause)


def _is_certain(error: Exception) -> bool:
    """Whether the server, or its absence, will be the same in a moment."""
    if isinstance(error, HTTPError):
        return error.code < 500 and error.code not in (408, 429)
    return isinstance(getattr(error, "reason", None), ConnectionRefusedError | socket.gaierror)


def _read_npz(content: bytes) -> dict[str, Array]:
    import zipfile

    import numpy as np

    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as data:
            return {key: np.ascontiguousarray(data[key], dtype=np.uint8) for key in ARRAYS}
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from error


def _parse_idx(content: bytes) -> Array:
    """IDX: two zero bytes, the type (8 is uint8), the number of axes, each size as a big-endian uint32, the data."""
    import numpy as np

    zero, kind, axes = struct.unpack_from(">HBB", content)
    if (zero, kind) != (0, 8):
        raise ValueError("not an IDX file of bytes")
    shape = struct.unpack_from(f">{axes}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


MNIST = Archive(
    "mnist",
    cache=".",
    remote=("mnist.npz",),
    arrays={
        "x_train": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        "y_train": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
        "x_test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        "y_test": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    },
)


FASHION_MNIST = Archive(
    "fashion_mnist",
    cache="fashion-mnist",
    remote=tuple(f"{stem}.gz" for stem in IDX.values()),
    gzipped={
        "x_train": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "y_train": "25c81989df183df01b3e8a0aad5dffbe",
        "x_test": "bef4ecab320f06d8554ea6380940ec79",
        "y_test": "bb300cfdad3c16e7a12a480ee83cd310",
    },
)
