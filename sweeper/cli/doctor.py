"""`sweeper doctor`: what a sweep needs around it (versions, data, devices, room, stores), and what to do about it."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from sweeper.cli.options import tracking_store
from sweeper.core.errors import DatasetError
from sweeper.core.files import PRIVATE_UMASK, temporary_folder
from sweeper.core.secrets import redact
from sweeper.core.urls import sqlite_path

_PATIENCE = 3.0
"""Seconds to wait for a store."""
_GB = 1 << 30
_COUNT_GPUS = "import tensorflow; print(len(tensorflow.config.list_physical_devices('GPU')))"


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, how it is, what was seen, and what to do."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


def examine(
    storage: str, tracking_uri: str | None = None, *, cluster: Callable[[], Iterator[Check]] | None = None
) -> Iterator[Check]:
    """All checks, each as soon as it is made; one that breaks is a finding of its own."""
    examinations: dict[str, Callable[[], Iterator[Check]]] = {
        "versions": check_versions,
        "data": check_data,
        "devices": check_devices,
        "room": check_room,
        "ray token": check_token,
        "studies": lambda: check_storage(storage),
        "mlflow": lambda: check_tracking(tracking_store(tracking_uri)),
        **({"cluster": cluster} if cluster else {}),
    }
    for name, examination in examinations.items():
        try:
            yield from examination()
        except Exception as error:
            yield Check(name, "fail", redact(f"could not be checked: {type(error).__name__}: {error}"))


def check_versions() -> Iterator[Check]:
    """Python and the packages that do the work, against the ranges sweeper declares."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    ranges: dict[str, SpecifierSet] = {}
    try:
        own = metadata.metadata("sweeper")
    except metadata.PackageNotFoundError:
        yield Check("sweeper", "warn", "not installed, so no versions are known to be tested", "pip install -e .")
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
    """The MNIST images: where they are, and whether they are what their checksum says."""
    from sweeper.datasets.archives import MNIST, DatasetMissingError

    try:
        files = MNIST.locate()
        MNIST.read(files)
    except DatasetMissingError as error:
        yield Check("mnist", "warn", str(error), "sweeps with `fallback: digits` run all the same")
    except DatasetError as error:
        yield Check("mnist", "fail", str(error))
    else:
        yield Check("mnist", "ok", f"{files[0] if len(files) == 1 else files[0].parent}, as published")


def check_devices() -> Iterator[Check]:
    """CPUs, and the GPUs that TensorFlow can use; it is asked in a process of its own, for it never lets go of one."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Check("cpus", "ok", f"{cpus}")
    command = [sys.executable, "-c", _COUNT_GPUS]
    quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=120, env=quiet, check=True)
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        yield Check("gpus", "fail", f"TensorFlow does not start: {last}", "reinstall tensorflow")
        return
    except subprocess.TimeoutExpired:
        yield Check("gpus", "fail", "TensorFlow did not start within two minutes", "look at the GPU's driver")
        return
    gpus = int(answer.stdout.split()[-1])
    if not gpus and shutil.which("nvidia-smi"):
        advice = "pip install 'tensorflow[and-cuda]', and compare its CUDA version with that of the driver"
        yield Check("gpus", "warn", "this machine has an NVIDIA driver, but TensorFlow sees no GPU", advice)
    else:
        yield Check("gpus", "ok", f"{gpus}" if gpus else "none; trials run on CPUs")


def check_room() -> Iterator[Check]:
    """Memory for the workers, shared memory for Ray's objects, disk for checkpoints and stores."""
    import psutil

    free = psutil.virtual_memory().available
    advice = "a worker with TensorFlow takes about 1 GB: run fewer trials at a time with --parallel"
    yield _enough("memory", free, 2 * _GB, f"{free / _GB:.1f} GB free", advice)
    shared = Path("/dev/shm")
    if shared.exists():
        free = shutil.disk_usage(shared).free
        advice = "in a container: --shm-size=2g; without it Ray keeps its objects on disk, slowly"
        yield _enough("shared memory", free, _GB, f"{free / _GB:.1f} GB free in {shared}", advice)
    places = {"disk": Path.cwd(), "disk of Ray": temporary_folder()}
    for name, place in places.items():
        usage = shutil.disk_usage(place)
        # Ray stops starting work where less than 5 % of a disk is free.
        wanted = max(2 * _GB, usage.total // 20)
        yield _enough(name, usage.free, wanted, f"{usage.free / _GB:.1f} GB free in {place}", "make room")


def check_token() -> Iterator[Check]:
    """The token of Ray clusters on disk, if there is one: who reads it may run code there."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if path.exists():
        is_open = bool(path.stat().st_mode & PRIVATE_UMASK)
        advice = f"chmod 600 {shlex.quote(str(path))}"
        yield _enough("ray token", not is_open, True, f"{path}{' can be read by others' * is_open}", advice)


def check_storage(url: str) -> Iterator[Check]:
    """The database of studies: there, whole, and writable."""
    path = sqlite_path(url)
    yield _sqlite("studies", path) if path else _server("studies", url)


def check_tracking(uri: str) -> Iterator[Check]:
    """The MLflow store or server."""
    path = sqlite_path(uri)
    if path is not None:
        yield _sqlite("mlflow", path)
    elif uri.startswith(("http://", "https://")):
        yield _website("mlflow", uri)
    else:
        yield Check("mlflow", "ok", f"{redact(uri)} (not looked into)")


def _enough(name: str, has: int, wants: int, found: str, advice: str) -> Check:
    return Check(name, "ok", found) if has >= wants else Check(name, "warn", found, advice)


def _sqlite(name: str, path: Path) -> Check:
    if not path.exists():
        folder = next(parent for parent in path.parents if parent.exists())
        if os.access(folder, os.W_OK):
            return Check(name, "ok", f"{path} will be created")
        return Check(name, "fail", f"{path} cannot be created: {folder} is not writable", "choose another place")
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=_PATIENCE, isolation_level=None)
        try:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        state: Literal["warn", "fail"] = "warn" if "locked" in str(error) else "fail"
        return Check(name, state, f"{path}: {error}", "see who holds it, and whether you may write there")
    except sqlite3.DatabaseError as error:
        return Check(name, "fail", f"{path}: {error}", "move it away and restore a copy")
    if verdict != "ok":
        return Check(name, "fail", f"{path} is damaged: {verdict}", "move it away and restore a copy")
    return Check(name, "ok", f"{path}")


def _server(name: str, url: str) -> Check:
    import sqlalchemy as sa

    try:
        engine = sa.create_engine(url, connect_args={"connect_timeout": int(_PATIENCE)})
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
        engine.dispose()
    except ModuleNotFoundError as error:
        return Check(name, "fail", f"the driver {error.name} is missing", "pip install 'sweeper[postgres]'")
    except sa.exc.SQLAlchemyError as error:
        first = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        return Check(name, "fail", redact(f"{redact(url)}: {first}"), "see that it runs, and the URL's host and port")
    return Check(name, "ok", redact(url))


def _website(name: str, uri: str) -> Check:
    shown = redact(uri)
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_PATIENCE):
            return Check(name, "ok", shown)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            advice = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            return Check(name, "warn", f"{shown} asks who you are ({error.code})", advice)
        return Check(name, "fail", f"{shown} answers {error.code}", "is this an MLflow server?")
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Check(
            name, "fail", redact(f"{shown} cannot be reached: {reason}"), "start it: sweeper ui, or mlflow server"
        )
