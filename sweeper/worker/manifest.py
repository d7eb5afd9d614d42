"""The manifest of a checkpoint: its report, the metrics, and the digests of its files and of itself.

A checkpoint is a folder with the file `manifest` and the folder `files`, which holds what the trainable wrote. The
manifest's first line is the SHA-256 of its second line, which is JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from sweeper.core.files import files_below, open_regular, read_small
from sweeper.core.text import format_list

FILES, _MANIFEST = "files", "manifest"

_OLD_MANIFEST = "manifest.json"
"""The manifest of sweeper 0.1 and 0.2: JSON without a digest of its own, beside the files of the trainable."""

MAX_MANIFEST_BYTES = 16_000_000
"""Largest manifest. One of a checkpoint with 100,000 files has about as much."""


class Manifest(BaseModel):
    """What a checkpoint knows of itself. The keys that it does not list are of no use here."""

    model_config = ConfigDict(strict=True, frozen=True)

    step: int = Field(ge=1)
    attempt: int = Field(ge=1)
    metrics: dict[str, FiniteFloat]
    sha256: dict[str, str]
    study: str | None = None
    params: str | None = None

    @property
    def folder_name(self) -> str:
        """Return the name of the checkpoint's folder."""
        return checkpoint_name(self.step, self.attempt)


def checkpoint_name(step: int, attempt: int) -> str:
    """Return the name of the folder of a checkpoint."""
    return f"attempt-{attempt:03d}-step-{step:08d}"


def write_manifest(
    folder: Path, step: int, attempt: int, metrics: Mapping[str, float], origin: Mapping[str, str]
) -> None:
    """Write the manifest of the files that a trainable wrote, and wait until all of it is on disk.

    Raises:
        OSError: the trainable wrote something else than files and folders, such as a link; or the disk fails.
        ValueError: it wrote too many files, or one whose name is not UTF-8.
    """
    found = files_below(folder / FILES)
    digests = {name: _sha256(path) for name, path in sorted(found.items())}
    about = {**origin, "step": step, "attempt": attempt, "metrics": dict(metrics), "sha256": digests}
    body = json.dumps(about, allow_nan=False, ensure_ascii=False).encode()
    content = hashlib.sha256(body).hexdigest().encode() + b"\n" + body
    if len(content) > MAX_MANIFEST_BYTES:
        raise ValueError(f"a checkpoint of {len(found):,} files is too large; pack them into fewer files")
    (folder / _MANIFEST).write_bytes(content)
    folders = {parent for path in found.values() for parent in path.parents if parent.is_relative_to(folder / FILES)}
    for path in (*found.values(), *folders, folder / FILES, folder / _MANIFEST, folder):
        fsync(path)


def read_manifest(folder: Path) -> tuple[Manifest, Path]:
    """Read and verify a checkpoint: its manifest, its name and every file that the manifest lists.

    Returns:
        The manifest, and the folder with the files of the trainable.

    Raises:
        ValueError: the checkpoint is damaged; the message says how.
    """
    try:
        files, found, body = _contents(folder)
        manifest = Manifest.model_validate_json(body)
        wrong = [
            name for name, digest in manifest.sha256.items() if name not in found or _sha256(found[name]) != digest
        ]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = "".join(f"{part}: " for part in first["loc"])
        raise ValueError(f"its manifest is not valid: {place}{first['msg']}") from error
    except OSError as error:
        raise ValueError(f"{error.strerror or error}: {Path(error.filename or folder).name}") from error
    if manifest.folder_name != folder.name:
        raise ValueError(f"its manifest is that of {manifest.folder_name}")
    if wrong:
        raise ValueError(f"wrong sha256: {format_list(wrong)}")
    return manifest, files


def _contents(folder: Path) -> tuple[Path, dict[str, Path], bytes]:
    """Return the folder with the trainable's files, these files by name, and the manifest's JSON."""
    if folder.is_symlink():
        raise ValueError("it is a link")
    if _OLD_MANIFEST in os.listdir(folder):
        found = files_below(folder)
        del found[_OLD_MANIFEST]
        return folder, found, read_small(folder / _OLD_MANIFEST, MAX_MANIFEST_BYTES)
    digest, _, body = read_small(folder / _MANIFEST, MAX_MANIFEST_BYTES).partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError(f"wrong sha256: {_MANIFEST}")
    return folder / FILES, files_below(folder / FILES), body


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Wait until a file or a folder is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
