"""Checks that refuse a sweep before anything is created or started."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

from sweeper.core.errors import InputError
from sweeper.core.files import check_writable_file, check_writable_folder, temporary_folder
from sweeper.core.sweep_folder import SweepFolder, check_folder
from sweeper.core.urls import is_same_database, problem_of_address, sqlite_path
from sweeper.driver.connection.auth import cluster_address
from sweeper.spec import Resources, Sweep
from sweeper.study.database_url import check_database_url

MIN_OPEN_FILES = 128
"""Files that each of Ray's processes must be able to open; more on a machine with many cores."""


RAY_PROCESS_BYTES = 1 << 30
"""Memory that Ray's largest process needs beside its memory for objects, which it maps twice."""


MAX_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""Longest path of a socket that the system accepts."""


_RAY_SOCKET = "session_2000-01-01_00-00-00_000000_/sockets/plasma_store"
"""Path of Ray's longest socket within its folder, without the process id of the driver."""


MIN_RAY_BYTES = 4_000_000
"""Space that Ray's files take at its start. Without it, Ray reports a timeout after half a minute."""


def preflight(sweep: Sweep, *, folder: SweepFolder, address: str | None, tracking_uri: str) -> Sweep:
    """Refuse a sweep that cannot run as it is; return it with the dataset that it will use.

    Raises:
        InputError: the sweep cannot be run as it is.
        ResourceError: the sweep would run on this machine, which could never run one of its trials.
        DatasetError: the data is missing or damaged, as far as its size and the heads of its files show.
    """
    cluster = cluster_address(address)
    if cluster and (fault := problem_of_address(cluster)):
        raise InputError(f"the address of the Ray cluster (RAY_ADDRESS, if --address is not given) {fault}")
    _check_names({"the working directory": Path.cwd(), "the folder of the sweep": folder.path})
    _check_names({f"argument {number} of the command": text for number, text in enumerate(sys.argv) if number})
    if cluster is None:
        _check_machine(sweep)
        _check_limits()
        _check_ray_folder(temporary_folder())
        _check_token_file(os.environ.get("RAY_AUTH_TOKEN_PATH"))
    check_database_url(sweep.storage_url())
    if is_same_database(sweep.storage_url(), tracking_uri):
        raise InputError(
            "the study and MLflow cannot use one database, because each keeps the version of its tables in the same "
            "place. Name another for one of them with --storage or --tracking-uri"
        )
    if (file := sqlite_path(tracking_uri)) is not None:
        check_writable_file(file, "choose another MLflow store with --tracking-uri")
    check_writable_folder(folder.path, "choose another with --dir")
    check_folder(folder.path)
    if sweep.dataset is not None:
        sweep = sweep.model_copy(update={"dataset": sweep.dataset.resolve()})
    if folder.remote is not None:  # last, because it creates the folder at the URL
        folder.remote.check()
    return sweep


def _check_names(names: Mapping[str, str | Path]) -> None:
    """Refuse names that Ray cannot write as UTF-8, by what they are for. Python reads such bytes as surrogates."""
    for what, name in names.items():
        try:
            str(name).encode()
        except UnicodeEncodeError as error:
            encoding = sys.getfilesystemencoding()
            shown = os.fsencode(name).decode(errors="backslashreplace")
            fault = "is not UTF-8; rename it"
            if encoding != "utf-8":
                fault = f"cannot be read in this locale, whose encoding is {encoding}; set LC_ALL=C.UTF-8, or rename it"
            raise InputError(f"{what}, {shown}, {fault}") from error


def _check_ray_folder(folder: Path) -> None:
    """Check the folder of Ray's files, which RAY_TMPDIR names."""
    remedy = "Ray keeps its files there: set RAY_TMPDIR to another folder"
    _check_names({"RAY_TMPDIR": folder})
    used = len(os.fsencode(folder / f"sweeper-{os.getuid()}/ray/{_RAY_SOCKET}{os.getpid()}"))
    if used > MAX_SOCKET_BYTES:
        length = len(os.fsencode(folder))
        raise InputError(
            f"RAY_TMPDIR, {folder}, is too long ({length} bytes; at most {length - used + MAX_SOCKET_BYTES} leave room "
            "for the names of Ray's sockets); set it to a shorter path, or leave it out to use /tmp"
        )
    check_writable_folder(folder, remedy, room=MIN_RAY_BYTES)


def _check_token_file(path: str | None) -> None:
    if not path or os.environ.get("RAY_AUTH_TOKEN"):
        return
    try:
        fault = "" if Path(path).read_bytes().strip() else "is empty"
    except OSError as error:
        fault = f"cannot be read ({error.strerror})"
    if fault:
        raise InputError(f"RAY_AUTH_TOKEN_PATH, {path}, {fault}; correct it, or leave it out to use a new token")


def _check_limits() -> None:
    """Refuse limits of this process with which Ray does not start; it reports a timeout after half a minute, or hangs.

    Ray raises its soft limit of open files by itself. Its memory for objects is one file, which is as large as that
    memory from the beginning.
    """
    _check_limit("-n", "open files", resource.getrlimit(resource.RLIMIT_NOFILE)[1], MIN_OPEN_FILES)
    _check_limit("-d", "private memory", resource.getrlimit(resource.RLIMIT_DATA)[0], RAY_PROCESS_BYTES, unit=1024)
    size, memory = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_AS))
    if {size, memory} == {resource.RLIM_INFINITY}:  # Ray takes half a second to import
        return
    from sweeper.driver.capacity import allowed_cpus
    from sweeper.driver.ray_internals import detect_local_resources

    objects = int(detect_local_resources(allowed_cpus())["object_store_memory"])
    _check_limit("-f", "the size of a file", size, objects, unit=1024)
    _check_limit("-v", "virtual memory", memory, 2 * objects + RAY_PROCESS_BYTES, unit=1024)


def _check_limit(option: str, what: str, limit: int, minimum: int, *, unit: int = 1) -> None:
    if limit != resource.RLIM_INFINITY and limit < minimum:
        raise InputError(
            f"the limit on {what} is too small for Ray: `ulimit {option}` is {limit // unit}, and must be at least "
            f"{-(-minimum // unit)} or unlimited"
        )


def _check_machine(sweep: Sweep) -> None:
    if sweep.resources == Resources():  # every machine has that, and Ray takes half a second to import
        return
    from sweeper.driver.capacity import allowed_cpus, refuse_infeasible
    from sweeper.driver.ray_internals import detect_local_resources

    refuse_infeasible(sweep, [detect_local_resources(allowed_cpus())], "this machine")
