"""A folder at a URL: in S3, or on any other file system that pyarrow or fsspec knows."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from sweeper.core.errors import InputError
from sweeper.core.files import written_whole
from sweeper.core.text import first_line

RETRY_DELAYS_S = (1.0, 2.0, 4.0)
"""Seconds before the second, third and fourth attempt at a transfer."""


_PROCESS_LOCAL = {"file", "local", "memory"}
"""Protocols of fsspec that reach no further than this process or machine. pyarrow opens file:///path itself."""


T = TypeVar("T")


class RemoteFolder:
    """A folder at a URL: s3://bucket/path, gs://..., or any other that pyarrow knows or an fsspec package handles.

    Raises:
        InputError: Neither pyarrow nor fsspec can open the URL.
    """

    def __init__(self, url: str) -> None:
        from pyarrow import fs

        self.url = url.rstrip("/")
        self._local_fs = fs.LocalFileSystem()
        try:
            self._remote_fs, self._root = fs.FileSystem.from_uri(self.url)
        except (ValueError, OSError):
            self._remote_fs, self._root = _by_fsspec(self.url)

    def put(self, folder: Path, name: str) -> None:
        """Copy a folder of this machine to the subfolder `name`."""
        self._with_retries(lambda: self._copy(str(folder), f"{self._root}/{name}", self._local_fs, self._remote_fs))

    def get(self, name: str, folder: Path) -> None:
        """Copy the subfolder `name` to this machine, whole or not at all. Replaces `folder` if it exists.

        Raises:
            OSError: it cannot be copied.
            InputError: the name of a file in it leads out of `folder`.
        """
        self._refuse_paths_out_of(name)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(folder) as beside:
            self._with_retries(lambda: self._copy(f"{self._root}/{name}", str(beside), self._remote_fs, self._local_fs))

    def read(self, name: str, max_bytes: int) -> bytes | None:
        """Return the content of a file, or its beginning; None if it does not exist."""
        path = f"{self._root}/{name}"

        def transfer() -> bytes:
            with self._remote_fs.open_input_stream(path) as file:
                return bytes(file.read(max_bytes))

        try:
            return self._with_retries(transfer)
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        path = f"{self._root}/{name}"

        def transfer() -> None:
            self._remote_fs.create_dir(self._root, recursive=True)
            with self._remote_fs.open_output_stream(path) as file:
                file.write(content)

        self._with_retries(transfer)

    def list_folders(self, name: str = "") -> list[str]:
        """Return the names of the folders in the subfolder `name`, or in the folder itself."""
        from pyarrow import fs

        selector = fs.FileSelector(f"{self._root}/{name}".rstrip("/"), allow_not_found=True)
        found = self._with_retries(lambda: self._remote_fs.get_file_info(selector))
        return [info.base_name for info in found if info.type == fs.FileType.Directory]

    def remove(self, name: str) -> None:
        """Remove the subfolder `name`, if it exists."""
        from pyarrow import fs

        path = f"{self._root}/{name}"
        if self._with_retries(lambda: self._remote_fs.get_file_info(path)).type == fs.FileType.Directory:
            self._with_retries(lambda: self._remote_fs.delete_dir(path))

    def check(self) -> None:
        """Write, read and remove a small file.

        Raises:
            InputError: One of these fails.
        """
        path = f"{self._root}/.probe-{uuid4().hex}"
        try:
            self._remote_fs.create_dir(self._root, recursive=True)
            with self._remote_fs.open_output_stream(path) as file:
                file.write(b"here")
            with self._remote_fs.open_input_stream(path) as file:
                file.read()
            self._remote_fs.delete_file(path)
        except Exception as error:  # each fsspec package raises errors of its own
            raise InputError(
                f"cannot write to {self.url} ({first_line(error)}); choose another folder with --dir"
            ) from error

    def _refuse_paths_out_of(self, name: str) -> None:
        """Raise InputError if a key in a subfolder would be copied elsewhere: an object store allows keys with `..`."""
        from pyarrow import fs

        selector = fs.FileSelector(f"{self._root}/{name}", recursive=True, allow_not_found=True)
        for info in self._with_retries(lambda: self._remote_fs.get_file_info(selector)):
            if ".." in info.path.removeprefix(self._root).split("/"):
                raise InputError(f"{self.url}/{name} has a file whose name leads out of it ({info.path}); remove it")

    def _copy(self, source: str, target: str, source_filesystem: Any, target_filesystem: Any) -> None:
        from pyarrow import fs

        target_filesystem.create_dir(target, recursive=True)
        fs.copy_files(source, target, source_filesystem=source_filesystem, destination_filesystem=target_filesystem)

    def _with_retries(self, transfer: Callable[[], T]) -> T:
        """Run a transfer; retry it after 1, 2 and 4 s if it fails, unless a file does not exist."""
        for pause in RETRY_DELAYS_S:
            try:
                return transfer()
            except FileNotFoundError:
                raise
            except OSError:
                time.sleep(pause)
        return transfer()


def _by_fsspec(url: str) -> tuple[Any, str]:
    import fsspec
    from pyarrow import fs

    try:
        found, root = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise InputError(
            f"cannot open {url} ({first_line(error)}); install the fsspec package for it, or choose another folder "
            "with --dir"
        ) from error
    if _PROCESS_LOCAL & {part.partition("://")[0].lower() for part in url.split("::")}:
        raise InputError(
            f"--dir {url} is no folder that nodes share: it would be a path relative to each process, or its memory. "
            "Write file:///data/sweeps with three slashes, a path, or the URL of an object store"
        )
    return fs.PyFileSystem(fs.FSSpecHandler(found)), root
