"""Checks on the URL of a database of studies that need neither a connection nor Optuna."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from sweeper.core.errors import InputError
from sweeper.core.files import check_writable_file
from sweeper.core.text import first_line
from sweeper.core.urls import problem_of_database_url


def check_database_url(url: str) -> None:
    """Check what can be checked without a connection.

    Raises:
        InputError: the URL is not one, its driver is not installed, or its file cannot be written.
    """
    if fault := problem_of_database_url(url, secrets=True):
        raise InputError(f"the database of studies {fault}")
    address = parse_database_url(url)
    try:
        address.get_dialect().import_dbapi()
    except (ImportError, NoSuchModuleError) as error:
        raise InputError(
            f"the database of studies has no driver here ({first_line(error)}). For PostgreSQL: "
            "pip install 'sweeper[postgres]', and name the database as postgresql+psycopg://host/name"
        ) from error
    if is_sqlite_file(address):
        check_writable_file(Path(str(address.database)), "choose another database with --storage")


def parse_database_url(url: str) -> URL:
    """Parse a database URL, or raise InputError with an example of one."""
    try:
        return make_url(url)
    except (ArgumentError, ValueError) as error:
        raise InputError(
            f"storage {url!r} is not a database URL; try sqlite:///sweeper.db or postgresql+psycopg://host/name"
        ) from error


def is_sqlite_file(address: URL) -> bool:
    """Return whether the database is a SQLite file, not a server or in memory."""
    return address.get_backend_name() == "sqlite" and bool(address.database)
