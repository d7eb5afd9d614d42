"""Checks of this machine for `sweeper doctor`: versions, data, devices, free space and stores, each with advice."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from sweeper.core.errors import DatasetError, InputError, StorageError, TrackingError
from sweeper.core.files import PRIVATE_UMASK, temporary_folder
from sweeper.core.secrets import redact
from sweeper.core.urls import connect_to_read, is_http, sqlite_path

LOCK_TIMEOUT_S = 3.0
"""Longest wait for a SQLite file that another process has locked."""
_GB = 1 << 30
_COUNT_GPUS = "import tensorflow; print(len(tensorflow.config.list_physical_devices('GPU')))"


@dataclass(frozen=True)
class Check:
    """One finding: what was checked, its state, what was found, and advice."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


def examine(
    storage: str,
    tracking_uri: str | None = None,
    *,
    clusters: Mapping[str, Callable[[], Iterator[Check]]] | None = None,
) -> Iterator[Check]:
    """Run all checks and yield each finding at once; a check that raises is reported as a failed one.

    Args:
        clusters: further checks by name, of clusters.
    """
    examinations: dict[str, Callable[[], Iterator[Check]]] = {
        "versions": check_versions,
        "data": check_data,
        "devices": check_devices,
        "free space": check_free_space,
        "ray token": check_token,
        "studies": lambda: check_storage(storage),
        "mlflow": lambda: check_tracking(tracking_uri),
        **(clusters or {}),
    }
    for name, examination in examinations.items():
        try:
            yield from examination()
        except Exception as error:
            yield Check(name, "fail", redact(f"could not be checked: {type(error).__name__}: {error}"))


def check_versions() -> Iterator[Check]:
    """Compare Python and the main packages with the ranges that sweeper declares."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    ranges: dict[str, SpecifierSet] = {}
    try:
        own = metadata.metadata("sweeper")
    except metadata.PackageNotFoundError:
        yield Check("sweeper", "warn", "not installed, so the tested versions are unknown", "pip install -e .")
    else:
        yield Check("sweeper", "ok", own["Version"])
        ranges["python"] = SpecifierSet(own["Requires-Python"])
        for line in metadata.requires("sweeper") or []:
            requirement = Requirement(line)
            ranges.setdefault(requirement.name, requirement.specifier)
    for name in ("python", "ray", "tensorflow", "keras", "mlflow", "optuna"):
        tested = ranges.get(name, SpecifierSet())
        try:
            found = platform.python_version() if name == "python" else metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Check(name, "fail", "not installed", f"pip install '{name}{tested}'")
            continue
        if tested.contains(found, prereleases=True):
            yield Check(name, "ok", found)
        else:
            yield Check(name, "warn", f"{found}, not tested", f"sweeper is tested with {name} {tested}")


def check_data() -> Iterator[Check]:
    """Find the MNIST images and verify their checksums."""
    from sweeper.datasets.archives import MNIST, DatasetMissingError

    try:
        files = MNIST.locate()
        MNIST.read(files)
    except DatasetMissingError as error:
        yield Check("mnist", "warn", str(error), "sweeps with `fallback: digits` run with the digits dataset instead")
    except DatasetError as error:
        yield Check("mnist", "fail", str(error))
    else:
        yield Check("mnist", "ok", f"{files[0] if len(files) == 1 else files[0].parent}, as published")


def check_devices() -> Iterator[Check]:
    """Count the CPUs, and the GPUs that TensorFlow can use.

    TensorFlow runs in a process of its own, because a process that has used a GPU holds it until it exits.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Check("cpus", "ok", f"{cpus}")
    command = [sys.executable, "-c", _COUNT_GPUS]
    quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=120, env=quiet, check=True)
    except subprocess.CalledProcessError as error:
        last = (redact(error.stderr).strip().splitlines() or ["no message"])[-1]
        yield Check("gpus", "fail", f"TensorFlow does not start: {last}", "reinstall tensorflow")
        return
    except subprocess.TimeoutExpired:
        yield Check("gpus", "fail", "TensorFlow did not start within two minutes", "check the GPU's driver")
        return
    gpus = int(answer.stdout.split()[-1])
    if not gpus and shutil.which("nvidia-smi"):
        advice = "pip install 'tensorflow[and-cuda]', and compare its CUDA version with that of the driver"
        yield Check("gpus", "warn", "this machine has an NVIDIA driver, but TensorFlow sees no GPU", advice)
    else:
        yield Check("gpus", "ok", f"{gpus}" if gpus else "none; trials run on CPUs")


def check_free_space() -> Iterator[Check]:
    """Measure the memory for workers, the shared memory for Ray's objects, and the disks for checkpoints and stores."""
    import psutil

    free = psutil.virtual_memory().available
    advice = "a worker with TensorFlow needs about 1 GB; run fewer trials at a time with --parallel"
    yield _at_least("memory", free, 2 * _GB, f"{free / _GB:.1f} GB free", advice)
    shared = Path("/dev/shm")
    if shared.exists():
        free = shutil.disk_usage(shared).free
        advice = "in a container, use --shm-size=2g; otherwise Ray keeps its objects on disk, which is slow"
        yield _at_least("shared memory", free, _GB, f"{free / _GB:.1f} GB free in {shared}", advice)
    folders = {"disk": Path.cwd(), "disk of Ray": temporary_folder()}
    for name, folder in folders.items():
        usage = shutil.disk_usage(folder)
        # Ray starts no work when less than 5 % of a disk is free.
        minimum = max(2 * _GB, usage.total // 20)
        yield _at_least(name, usage.free, minimum, f"{usage.free / _GB:.1f} GB free in {folder}", "free some space")


def check_token() -> Iterator[Check]:
    """Check who can read the file with the token of Ray clusters: anyone with the token can run code there."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if path.exists():
        is_open = bool(path.stat().st_mode & PRIVATE_UMASK)
        advice = f"chmod 600 {shlex.quote(str(path))}"
        yield _at_least("ray token", not is_open, True, f"{path}{' can be read by others' * is_open}", advice)


def check_storage(url: str) -> Iterator[Check]:
    """Check that the database of studies can be reached, read and written, and is no other program's."""
    from sweeper.study.database import NoStudiesError, open_database
    from sweeper.study.database_url import check_database_url

    path = sqlite_path(url)
    if path and (problem := _problem_of_file("studies", path)):
        yield problem
        return
    try:
        check_database_url(url)
        with open_database(url, read_only=True):
            yield Check("studies", "ok", str(path or redact(url)))
    except StorageError as error:
        yield Check("studies", "fail", redact(str(error)), "check that it runs, and the host and port of the URL")
    except NoStudiesError as error:
        yield Check("studies", "ok", redact(str(error)))
    except InputError as error:
        yield Check("studies", "fail", redact(str(error)))


def check_tracking(asked: str | None) -> Iterator[Check]:
    """Check that the MLflow store can be read and written, and is no other program's, or that the server answers."""
    from sweeper.tracking import check_store, store_uri

    try:
        uri = store_uri(asked)
        path = sqlite_path(uri)
        if path and (problem := _problem_of_file("mlflow", path)):
            yield problem
        elif reason := check_store(uri):
            advice = "start it: sweeper ui, or mlflow server" if is_http(uri) else "check who has it open"
            yield Check("mlflow", "fail", f"{redact(uri)} cannot be used now: {reason}", advice)
        else:
            yield Check("mlflow", "ok", str(path or redact(uri)))
            if path:
                yield from _misplaced_files("mlflow files", path)
    except (InputError, TrackingError) as error:
        yield Check("mlflow", "fail", redact(str(error)))


def _at_least(name: str, value: int, minimum: int, found: str, advice: str) -> Check:
    return Check(name, "ok", found) if value >= minimum else Check(name, "warn", found, advice)


def _problem_of_file(name: str, path: Path) -> Check | None:
    """Return the finding about a SQLite file that is missing or cannot be used; None if it can be opened."""
    if not path.exists():
        folder = next(parent for parent in path.parents if parent.exists())
        if os.access(folder, os.W_OK):
            return Check(name, "ok", f"{path} will be created")
        return Check(name, "fail", f"{path} cannot be created: {folder} is not writable", "choose another folder")
    if not path.is_file():
        return Check(name, "fail", f"{path} is no regular file", "choose another")
    if not os.access(path, os.W_OK):
        return Check(name, "fail", f"{path} is not writable", "check whose it is")
    try:
        with closing(connect_to_read(path, timeout=LOCK_TIMEOUT_S)) as connection:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            connection.execute("PRAGMA query_only = OFF")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_READONLY:  # it has a log, and so was opened without this right
            return None
        state: Literal["warn", "fail"] = "warn" if "locked" in str(error) else "fail"
        return Check(name, state, f"{path}: {error}", "check who has it open, and whether you may write to it")
    except sqlite3.DatabaseError as error:
        return Check(name, "fail", f"{path}: {error}", "move it away and restore a copy")
    if verdict != "ok":
        return Check(name, "fail", f"{path} is damaged: {verdict}", "move it away and restore a copy")
    return None


def _misplaced_files(name: str, database: Path) -> Iterator[Check]:
    """Find experiments of a local MLflow store whose files are not beside it, as after moving a project."""
    from sweeper.tracking.artifact_root import misplaced_roots

    try:
        roots = misplaced_roots(database)
    except sqlite3.Error:  # there is no file, or it is no store of MLflow: the check before this one says so
        return
    for root in roots:
        advice = "the next sweep in this experiment corrects the addresses" if root.can_be_corrected else root.advice
        yield Check(name, "warn", str(root), advice)
