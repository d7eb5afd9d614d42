"""Files of the image datasets: found on this machine or downloaded, verified, read. Imports only numpy and pooch."""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.core.errors import DatasetError
from sweeper.core.text import first_line

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


CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 3.0, 10.0
"""How long a download waits for a connection, and for the next bytes."""


class DatasetMissingError(DatasetError):
    """The files of a dataset are not on this machine and cannot be downloaded. Raised before anything is started."""

    exit_code = 2


@dataclass(frozen=True)
class Archive:
    """The published files of one dataset: their names, the folders they may be in, and their checksums.

    `files` maps the names of the files, on the server and in the cache, to their checksums, as pooch writes them.
    `arrays` are the SHA-256 sums of the raw bytes of the four arrays, which hold for any container; where they are
    None, only the published files are accepted.
    """

    name: str
    cache: str  # below Keras's folder for datasets
    files: Mapping[str, str]
    arrays: Mapping[str, str] | None = None
    server: str = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"

    def locate(self) -> tuple[Path, ...]:
        """Return the dataset's files: one .npz or four IDX files. Downloads them into Keras's cache if needed.

        Raises:
            DatasetMissingError: They are not on this machine and cannot be downloaded.
            DatasetError: The server has other files than the published ones.
        """
        here = os.environ.get("SWEEPER_DATA_DIR")
        if here and not Path(here).is_dir():
            raise DatasetMissingError(f"{self.name}: SWEEPER_DATA_DIR is {here}, and there is no such folder")
        folders = [Path(here) / self.name, Path(here)] if here else []
        # The IDX files of MNIST and of similar datasets have the same names: only MNIST's may be in the folder itself.
        folders = folders if self.arrays else folders[:1]
        for folder in (*folders, self._cache()):
            if found := self._files_in(folder):
                return found
        return self._download(here)

    def read(self, files: tuple[Path, ...]) -> dict[str, Array]:
        """Read and verify the four arrays (uint8) of located files.

        Raises:
            DatasetError: A file is damaged, or differs from what was published.
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
                    f"but must be {self.arrays[key]}; remove the file, or set SWEEPER_DATA_DIR to another folder"
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
            if self.arrays is None:
                published = self.files[path.name].removeprefix("md5:")
                if (seen := hashlib.md5(content, usedforsecurity=False).hexdigest()) != published:
                    raise DatasetError(
                        f"{path} is not what was published: its MD5 is {seen}, but must be {published}; remove it"
                    )
            arrays[key] = _parse_idx(gzip.decompress(content) if path.suffix == ".gz" else content)
        return arrays

    def _download(self, here: str | None) -> tuple[Path, ...]:
        """Download the files into the cache. Each is verified before it gets its name there."""
        import pooch
        from requests import RequestException

        pooch.get_logger().setLevel(logging.WARNING)  # it prints every download to stderr, into the live display
        cache = self._cache()
        server = pooch.create(cache, self.server, registry=dict(self.files), retry_if_failed=1)
        transfer = pooch.HTTPDownloader(timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S), chunk_size=1 << 20)
        remedy = "put its files in a folder and set SWEEPER_DATA_DIR to it, or use the digits dataset"
        found = []
        for name in self.files:
            try:
                found.append(Path(server.fetch(name, downloader=transfer)))
            except RequestException as error:
                looked = " and ".join(str(place) for place in (here, cache) if place)
                raise DatasetMissingError(
                    f"{self.name} is not in {looked}, and cannot be downloaded from {self.server}{name} "
                    f"({_reason(error)}); {remedy}"
                ) from error
            except OSError as error:
                raise DatasetMissingError(
                    f"{self.name} is not here, and cannot be kept in {cache} ({_reason(error)}); set KERAS_HOME to "
                    "another folder, or SWEEPER_DATA_DIR to one with its files"
                ) from error
            except ValueError as error:  # a second download had another checksum, too
                what, _, _ = str(error).partition(". ")
                raise DatasetError(f"{self.server}{name} is not what was published: {what}; {remedy}") from error
        return tuple(found)


def _reason(error: OSError) -> str:
    """Return why a download failed, in a few words: requests' own message repeats the URL and every layer below."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"{response.status_code} {response.reason}"
    cause: BaseException = error
    while inner := cause.__cause__ or cause.__context__:
        cause = inner
    return getattr(cause, "strerror", None) or first_line(cause)


def _read_npz(content: bytes) -> dict[str, Array]:
    import zipfile

    import numpy as np

    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as data:
            return {key: np.ascontiguousarray(data[key], dtype=np.uint8) for key in ARRAYS}
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from error


def _parse_idx(content: bytes) -> Array:
    """Parse an IDX file: two zero bytes, the type (8: uint8), the number of axes, big-endian uint32 sizes, data."""
    import numpy as np

    zero, kind, axes = struct.unpack_from(">HBB", content)
    if (zero, kind) != (0, 8):
        raise ValueError("not an IDX file of bytes")
    shape = struct.unpack_from(f">{axes}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


MNIST = Archive(
    "mnist",
    cache=".",
    files={"mnist.npz": "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"},
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
    files={
        "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
    },
)
