"""Checks on the URL of a database of studies that need neither a connection nor Optuna."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from sweeper.core.errors import InputError
from sweeper.core.files import check_writable_file, file_system_of
from sweeper.core.text import did_you_mean, first_line, format_value
from sweeper.core.urls import problem_of_database_url, with_home

_NETWORK_FILE_SYSTEMS = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "afs",
    "ceph",
    "gluster",
    "lustre",
    "beegfs",
    "gpfs",
    "fuse.sshfs",
    "fuse.s3",
)
"""Prefixes of the types of file systems that several machines write to. Not all of fuse: it also serves local disks."""


def check_database_url(url: str) -> None:
    """Check what can be checked without a connection.

    Raises:
        InputError: the URL is not one, its driver is not installed, or its file cannot be written.
    """
    address = parse_database_url(url)
    try:
        address.get_dialect().import_dbapi()
    except (ImportError, NoSuchModuleError) as error:
        raise InputError(
            f"the database of studies has no driver here ({first_line(error)}). For PostgreSQL: "
            "pip install 'sweeper[postgres]', and name the database as postgresql+psycopg://host/name"
        ) from error
    _refuse_unknown_options(address)
    if is_sqlite_file(address):
        check_writable_file(Path(str(address.database)), "choose another database with --storage")


def parse_database_url(url: str) -> URL:
    """Parse a database URL, or raise InputError with the problem that it has."""
    if problem := problem_of_database_url(url, secrets=True):
        raise InputError(f"the database of studies {problem}")
    try:
        return make_url(with_home(url))
    except (ArgumentError, ValueError) as error:  # its message may repeat a password
        raise InputError(
            "the database of studies is no URL of a database; try sqlite:///sweeper.db or "
            "postgresql+psycopg://host/name"
        ) from error


def _refuse_unknown_options(address: URL) -> None:
    """Raise InputError for an option that PostgreSQL's library does not know; it would be found when it connects."""
    if address.get_driver_name() != "psycopg":
        return
    from psycopg.pq import Conninfo

    known = sorted(option.keyword.decode() for option in Conninfo.get_defaults())
    for name in address.query:
        if name not in known:
            raise InputError(
                f"the database of studies has an unknown option {format_value(name)}. {did_you_mean(name, known)}"
            )


def is_sqlite_file(address: URL) -> bool:
    """Return whether the database is a SQLite file, not a server or in memory."""
    return address.get_backend_name() == "sqlite" and bool(address.database)


def refuse_network_file_system(file: Path) -> None:
    """Raise InputError for a file that several machines share: SQLite's write-ahead log needs shared memory."""
    kind = file_system_of(file)
    if kind.startswith(_NETWORK_FILE_SYSTEMS):
        raise InputError(
            f"{file} is on a network file system ({kind}), where SQLite loses data. Name a local file with --storage, "
            "or a server: --storage postgresql+psycopg://host/name"
        )
