"""The look at an MLflow store before it is used: what can never work is refused, and nothing in it is changed.

MLflow itself is not imported here: it takes seconds, and creates or upgrades tables in any database that it opens.
"""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sweeper.core.errors import InputError, TrackingError
from sweeper.core.secrets import redact
from sweeper.core.text import first_line, format_list
from sweeper.core.urls import connect_to_read, is_http, sqlite_path
from sweeper.tracking.server import check_server, deleted_experiment

LOCK_TIMEOUT_S = 3.0
"""Longest wait for the lock of a SQLite file, in seconds."""

CONNECT_TIMEOUT_S = 3
"""Longest wait for a connection to a database server, in whole seconds."""

_TABLE_NAME = re.compile(r'^    __tablename__ = "(\w+)"', re.MULTILINE)
_REVISION = re.compile(r'^(down_)?revision\b[^=]*= *(?:"(\w+)")?', re.MULTILINE)
_FATAL_STATES = ("28", "3D", "42")
"""Classes of PostgreSQL's SQLSTATE for what does not pass: wrong credentials, no such database, no rights."""

_FATAL_MESSAGE = re.compile(
    r"authentication failed|does not exist|no password supplied|no pg_hba\.conf entry|not permitted to log in"
    r"|Access denied|Unknown database"
)
"""The same in the words of PostgreSQL and MySQL, whose drivers give no SQLSTATE where no connection was made."""


def check_store(uri: str, experiment: str | None = None, *, must_exist: bool = False) -> str | None:
    """Refuse a store that can never be used, or not before somebody has corrected it.

    Args:
        experiment: the experiment that will get the runs; created later if there is none.
        must_exist: refuse a database without MLflow's tables too, which MLflow would create.

    Returns:
        Why the store does not answer now, in a few words; None if it answers. A sweep does not wait for it.

    Raises:
        InputError: it is no MLflow store, is another program's database or another version's, or its experiment was
            deleted.
        TrackingError: a server answers that it cannot be used.
    """
    if is_http(uri):
        return check_server(uri, experiment)
    if uri.startswith("databricks"):
        _check_databricks(uri)
        return None
    path = sqlite_path(uri)
    if path is None and "://" not in uri or uri.startswith("file:"):  # a folder, which the user has asked MLflow for
        return None
    shown = str(path) if path else redact(uri)
    try:
        with _reading_file(path) if path else _reading_server(uri) as database:
            if problem := _problem_of_tables(database, redact(uri), must_exist=must_exist):
                raise InputError(f"MLflow cannot use {shown}: {problem}. Or choose another store with --tracking-uri")
            if "active" not in database.stages.get(experiment or "", {"active"}):
                raise InputError(f"MLflow at {shown}: {deleted_experiment(str(experiment))}")
    except _UnavailableError as error:
        return str(error)
    return None


class _UnavailableError(Exception):
    """The store does not answer now, and may do so later."""


@dataclass(frozen=True)
class _Contents:
    """What a database holds: its tables, the version of MLflow's schema, and the stages of experiments by name."""

    tables: frozenset[str]
    revision: str | None
    stages: dict[str, set[str]]


_QUERIES = ("SELECT version_num FROM alembic_version", "SELECT name, lifecycle_stage FROM experiments")


@contextmanager
def _reading_file(path: Path) -> Iterator[_Contents]:
    if path.exists() and not path.is_file():  # SQLite would wait for ever for a pipe
        raise InputError(f"MLflow cannot use {path}: it is no regular file; choose another store with --tracking-uri")
    if not path.exists() or not path.stat().st_size:
        yield _Contents(frozenset(), None, {})
        return
    try:
        with closing(connect_to_read(path, timeout=LOCK_TIMEOUT_S)) as connection:
            names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            yield _contents({name for (name,) in names}, lambda query: connection.execute(query).fetchall())
    except sqlite3.OperationalError as error:  # locked, or MLflow's writer was killed and left its journal
        raise _UnavailableError(str(error)) from error
    except sqlite3.DatabaseError as error:
        raise InputError(f"MLflow cannot use {path}: {error}; choose another store with --tracking-uri") from error


@contextmanager
def _reading_server(uri: str) -> Iterator[_Contents]:
    import sqlalchemy as sa
    from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

    shown = redact(uri)
    try:
        driver = sa.make_url(uri).get_driver_name()
        waits = {"connect_timeout": CONNECT_TIMEOUT_S} if driver in ("psycopg", "psycopg2", "pymysql") else {}
        engine = sa.create_engine(uri, poolclass=sa.NullPool, connect_args=waits)
    except (ImportError, NoSuchModuleError) as error:
        raise InputError(
            f"MLflow's database {shown} has no driver here ({first_line(error)}). For PostgreSQL: "
            "pip install 'sweeper[postgres]', and name the database as postgresql+psycopg://host/name"
        ) from error
    except (ArgumentError, ValueError) as error:
        raise InputError(f"MLflow's database {shown} is no URL of a database") from error
    try:
        with engine.connect() as connection:
            tables = set(sa.inspect(connection).get_table_names())
            yield _contents(tables, lambda query: [tuple(row) for row in connection.execute(sa.text(query))])
    except DBAPIError as error:
        reason = redact(first_line(error))
        if _is_fatal(error.orig):
            raise TrackingError(f"MLflow's database {shown} cannot be used: {reason}") from error
        raise _UnavailableError(reason) from error


def _is_fatal(error: BaseException | None) -> bool:
    state = getattr(error, "sqlstate", None) or ""
    return state.startswith(_FATAL_STATES) or _FATAL_MESSAGE.search(str(error)) is not None


def _contents(tables: set[str], query: Any) -> _Contents:
    stages: dict[str, set[str]] = {}
    revisions = query(_QUERIES[0]) if "alembic_version" in tables else []
    revision = str(revisions[0][0]) if revisions else None
    if "experiments" in tables and revision in _revisions():
        for name, stage in query(_QUERIES[1]):
            stages.setdefault(str(name), set()).add(str(stage))
    return _Contents(frozenset(tables), revision, stages)


def _problem_of_tables(found: _Contents, url: str, *, must_exist: bool) -> str | None:
    """Return why MLflow cannot use a database, or may not because it is another program's; None if it can."""
    if (is_newest := _revisions().get(found.revision or "")) is not None:
        upgrade = f"make a copy of it, and run: mlflow db upgrade {shlex.quote(url)}"
        return None if is_newest else f"an older MLflow wrote it (schema {found.revision}); {upgrade}"
    if {"studies", "version_info"} <= found.tables:
        return "it is the database of a study; name one of its own, such as sqlite:///mlflow.db"
    if found.revision is not None and {"experiments", "runs"} <= found.tables:
        return f"a newer MLflow wrote it (schema {found.revision}); upgrade mlflow"
    if found.revision is not None:
        return "it is another program's, which keeps its version where MLflow would; name an empty database"
    if taken := sorted(found.tables & _tables()):
        return f"its tables {format_list(taken)} are another program's; name an empty database"
    return "it holds no runs, so no sweep has been copied there; run one first" if must_exist else None


def _package(part: str) -> Path:
    """Return a folder of the installed MLflow; it is found without an import of MLflow."""
    found = find_spec("mlflow")
    return Path(str(found.origin)).parent / part if found else Path(part)


@cache
def _revisions() -> dict[str, bool]:
    """Return the versions of MLflow's schema that its migrations know, and whether each is the newest."""
    own: set[str] = set()
    earlier: set[str] = set()
    for file in _package("store/db_migrations/versions").glob("*.py"):
        for is_earlier, revision in _REVISION.findall(file.read_text()):
            (earlier if is_earlier else own).add(revision)
    return {revision: revision not in earlier for revision in own}


@cache
def _tables() -> frozenset[str]:
    """Return the names of MLflow's tables."""
    files = _package("store").glob("*/dbmodels/*models.py")
    return frozenset(name for file in files for name in _TABLE_NAME.findall(file.read_text()))


def _check_databricks(uri: str) -> None:
    """Raise InputError if nothing here names a workspace of Databricks."""
    file = Path(os.environ.get("DATABRICKS_CONFIG_FILE") or Path.home() / ".databrickscfg")
    if not file.exists() and not os.environ.get("DATABRICKS_HOST"):
        raise InputError(
            f"MLflow at {redact(uri)} needs credentials: set DATABRICKS_HOST and DATABRICKS_TOKEN, or write {file}"
        )
