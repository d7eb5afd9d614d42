"""Files of the image datasets: found on this machine or downloaded, verified, read. Imports only numpy and pooch."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sweeper.core.errors import DatasetError
from sweeper.core.text import first_line, format_list
from sweeper.datasets.containers import Array, BrokenFileError, check_idx, check_npz, read_idx, read_npz

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


_REMEDY = "remove it, so that it is downloaded again, or set SWEEPER_DATA_DIR to a folder with the published files"


class DatasetMissingError(DatasetError):
    """The files of a dataset are not on this machine and cannot be downloaded: the fallback may be used."""


@dataclass(frozen=True)
class Archive:
    """The published files of one dataset: their names, the folders that they may be in, and their checksums.

    `files` maps the names of the files, on the server and in the cache, to their checksums, as pooch writes them.
    `arrays` are the SHA-256 sums of the raw bytes of the four arrays, which hold for any container; where they are
    None, only the published files are accepted.
    """

    name: str
    cache: str  # below Keras's folder for datasets
    folders: tuple[str, ...]  # below SWEEPER_DATA_DIR
    files: Mapping[str, str]
    arrays: Mapping[str, str] | None = None
    server: str = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"

    def locate(self) -> tuple[Path, ...]:
        """Return the dataset's files: one .npz or four IDX files. Downloads them into Keras's cache if needed.

        Raises:
            DatasetMissingError: They are not on this machine and cannot be downloaded.
            DatasetError: SWEEPER_DATA_DIR has other files, which are not those of the dataset; or the server has.
        """
        here = os.environ.get("SWEEPER_DATA_DIR")
        folders = [Path(here) / name for name in self.folders] if here else []
        try:
            if here and not Path(here).is_dir():
                raise DatasetMissingError(f"{self.name}: SWEEPER_DATA_DIR is {here}, and there is no such folder")
            for folder in (*folders, self._cache()):
                if found := self._files_in(folder):
                    return found
            others = _files_of(folders)
        except OSError as error:
            raise DatasetError(f"{self.name}: {error.filename} cannot be read ({error.strerror})") from error
        try:
            return self._download(here)
        except DatasetMissingError as error:
            if not others:
                raise
            raise DatasetError(
                f"{error}. {here} has {format_list(others)}; {self.name} needs {self._wanted()}. A fallback is not "
                "used in place of unknown files: to use it, unset SWEEPER_DATA_DIR"
            ) from error

    def check(self, files: tuple[Path, ...]) -> None:
        """Check the heads and the sizes of located files, which takes milliseconds.

        Raises:
            DatasetError: A file is not what its name promises, is cut short, or claims arrays of other shapes.
        """
        for key, path in zip(ARRAYS, files, strict=False):
            try:
                check_npz(path, _SHAPES) if len(files) == 1 else check_idx(path, _SHAPES[key])
            except BrokenFileError as error:
                raise self._broken_error(path, error) from error

    def read(self, files: tuple[Path, ...]) -> dict[str, Array]:
        """Read and verify the four arrays (uint8) of located files.

        Raises:
            DatasetError: A file is damaged, or differs from what was published.
        """
        self.check(files)
        place, arrays = files[0] if len(files) == 1 else files[0].parent, {}
        for key, path in zip(ARRAYS, files, strict=False):
            try:
                if len(files) == 1:
                    arrays = read_npz(path, ARRAYS)
                else:
                    self._verify_file(path, IDX[key])
                    arrays[key] = read_idx(path, _SHAPES[key])
            except BrokenFileError as error:
                raise self._broken_error(path, error) from error
        for key in ARRAYS:
            if self.arrays and (seen := hashlib.sha256(arrays[key].tobytes()).hexdigest()) != self.arrays[key]:
                raise DatasetError(
                    f"{key} of {self.name} in {place} is not what was published: its SHA-256 is {seen}, "
                    f"but must be {self.arrays[key]}; {_REMEDY}"
                )
        return arrays

    def _broken_error(self, path: Path, error: BrokenFileError) -> DatasetError:
        return DatasetError(f"{self.name} cannot be used: {path} {error}. To mend it, {_REMEDY}")

    def _cache(self) -> Path:
        home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
        return Path(home) / "datasets" / self.cache

    def _files_in(self, folder: Path) -> tuple[Path, ...] | None:
        if self.arrays and (npz := folder / f"{self.name}.npz").is_file():
            return (npz,)
        endings = ("", ".gz") if self.arrays else (".gz",)
        choices = [
            [folder / f"{stem}{ending}" for stem in _spellings(name) for ending in endings] for name in IDX.values()
        ]
        found = [next((path for path in paths if path.is_file()), None) for paths in choices]
        return tuple(path for path in found if path) if all(found) else None

    def _wanted(self) -> str:
        """Return which files the dataset needs, in words."""
        if self.arrays is None:
            return f"the folder {self.folders[0]} with {', '.join(f'{stem}.gz' for stem in IDX.values())}"
        return f"{self.name}.npz, or {', '.join(IDX.values())} (also with .idx for -idx, and with .gz)"

    def _verify_file(self, path: Path, stem: str) -> None:
        """Compare a file with its published checksum, where those of the arrays are not known."""
        if self.arrays is not None:
            return
        published = self.files[f"{stem}.gz"].removeprefix("md5:")
        with path.open("rb") as file:
            seen = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if seen != published:
            raise BrokenFileError(f"is not what was published: its MD5 is {seen}, but must be {published}")

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


def _spellings(stem: str) -> tuple[str, str]:
    """Return the usual names of an IDX file: train-images-idx3-ubyte and train-images.idx3-ubyte."""
    return stem, stem.replace("-idx", ".idx")


def _files_of(folders: list[Path]) -> list[str]:
    """Return the names of the visible files in the folders that exist."""
    return sorted(
        path.name
        for folder in folders
        if folder.is_dir()
        for path in folder.iterdir()
        if not path.name.startswith(".") and not path.is_dir()
    )


MNIST = Archive(
    "mnist",
    cache=".",
    folders=("mnist", ".", "MNIST/raw"),  # the last is torchvision's
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
    folders=("fashion_mnist", "FashionMNIST/raw"),  # its files have the names of MNIST's
    files={
        "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
    },
)
