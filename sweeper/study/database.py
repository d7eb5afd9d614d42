"""The database of studies: a SQLite file in WAL mode, or a server that Optuna supports."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from sweeper.core.errors import InputError, StorageError, SweeperError
from sweeper.core.files import PinnedPath
from sweeper.core.text import first_line
from sweeper.core.urls import connect_to_read
from sweeper.study.database_url import is_sqlite_file, parse_database_url, refuse_network_file_system
from sweeper.study.lease import Lease, find_held
from sweeper.study.storage.commands import Commands
from sweeper.study.storage.exchange import division_by_zero_means, one_exchange, set_up
from sweeper.study.storage.tables import create_tables, drop_unused_tables, is_used, look_at_tables

optuna.logging.set_verbosity(optuna.logging.WARNING)

LOCK_TIMEOUT_S = 30
"""Lock timeout in seconds: how long a write waits for another process's lock on a SQLite file."""

OWNER_LOCK_TIMEOUT_S = 2
"""Lock timeout of the owner, in seconds. Python handles no signal while SQLite waits; the write is retried."""

_SERVER_OPTIONS = {"connect_timeout": 10, "tcp_user_timeout": 30_000}
"""Options that detect a dead server: seconds to connect, and milliseconds until sent data must be acknowledged."""

OPEN_TIMEOUT_S = 10
"""Seconds to retry when another process creates the tables at the same moment."""


@dataclass(frozen=True)
class Database:
    """An open database: Optuna's storage, the engine that it uses, and its URL without a password."""

    optuna: optuna.storages.RDBStorage
    engine: sa.Engine
    display_url: str
    file: PinnedPath | None = None
    """The SQLite file; None for a database server."""
    before: Before | None = None
    """What was there before; None if the tables of studies were."""

    @contextmanager
    def lease(self, sweep: str) -> Iterator[Lease]:
        """Hold the lease on a sweep for the block, or raise SweepBusyError."""
        lease = Lease(self.engine, sweep)
        lease.acquire()
        if self.file:
            sa.event.listen(self.engine, "begin", _shorten_lock_timeout)
        try:
            yield lease
        finally:
            lease.release()

    @contextmanager
    def transaction(self, lease: Lease) -> Iterator[sa.Connection]:
        """Commit everything that the owner writes in the block at once, with what Optuna writes.

        Optuna alone would commit each of its small writes, and each commit waits for the disk.

        Raises:
            LeaseLostError: another process has taken the lease; nothing was written.
            StorageError: the SQLite file was removed or replaced; nothing was written.
        """
        sessions = self.optuna.scoped_session
        if self.file:
            self.file.check_unchanged()
        with division_by_zero_means(lease.loss), self.engine.begin() as connection, one_exchange(connection) as is_one:
            lease.renew(connection, is_answered=not is_one)
            sessions.remove()
            sessions.registry.set(Session(connection, join_transaction_mode="rollback_only"))
            try:
                yield connection
            finally:
                sessions.remove()

    @contextmanager
    def removed_if_refused(self) -> Iterator[None]:
        """Remove what opening the database has added, if the block raises an error that sweeper explains.

        A study that is in it by now, this sweep's or another's, is kept with all tables.
        """
        try:
            yield
        except SweeperError:
            if self.before is not None:
                with suppress(SQLAlchemyError, OSError, StorageError):
                    self._remove_added(self.before)
            raise

    def _remove_added(self, before: Before) -> None:
        self.optuna.remove_session()
        if self.file:
            self.file.check_unchanged()
        with self.engine.connect() as connection:
            if is_used(connection, before.tables):
                return
        self.engine.dispose()
        with self.engine.begin() as connection:
            if self.file:
                connection.exec_driver_sql("PRAGMA busy_timeout = 1000")
                # This fails if another process has the file open, and leaves no log beside it.
                connection.exec_driver_sql(f"PRAGMA journal_mode = {before.journal_mode or 'delete'}")
                connection.exec_driver_sql("BEGIN EXCLUSIVE")
            if drop_unused_tables(connection, before.tables):
                for path in before.missing[:1]:
                    path.unlink()
        for folder in () if self.file and self.file.path.exists() else before.missing[1:]:
            folder.rmdir()

    def commands(self, sweep: str) -> Commands:
        """Return the commands to a sweep."""
        return Commands(self.engine, sweep)

    def is_owned(self, sweep: str) -> bool:
        """Return whether a process owns the sweep; one on another machine counts until its lease is taken over."""
        return bool(find_held(self.engine, [sweep]))


@contextmanager
def open_database(url: str, *, must_exist: bool = False, read_only: bool = False) -> Iterator[Database]:
    """Open the database of studies, and create it with its tables on first use.

    Args:
        must_exist: open it to write to a study in it; nothing is created.
        read_only: open it to read; nothing in it is changed.

    Raises:
        InputError: the URL is not one, the database is another program's, or it has no studies and must have some.
        StorageError: the database cannot be reached, read or written.
    """
    address = parse_database_url(url)
    way = ("hostaddr", "port") if "hostaddr" in address.query else ()  # that of a tunnel: no part of the name
    display_url = address.difference_update_query(way).render_as_string(hide_password=True)
    file = Path(str(address.database)).absolute() if is_sqlite_file(address) else None
    if file and not (must_exist or read_only):
        refuse_network_file_system(file)
    with _errors_explained(display_url):
        before = _look(address, file)
    if before is not None and not before.has_optuna and (must_exist or read_only):
        raise NoStudiesError(f"no sweep has run with {display_url}. Name the database with --storage")
    with _errors_explained(display_url):
        storage = _connect_with_retries(address, file, before, must_exist=must_exist, read_only=read_only)
    pinned = PinnedPath(file, "the study's database") if file else None
    try:
        yield Database(storage, storage.engine, display_url, pinned, before)
    finally:
        storage.remove_session()
        storage.engine.dispose()


class NoStudiesError(InputError):
    """A database does not exist, or has no tables of studies."""


@contextmanager
def _errors_explained(display_url: str) -> Iterator[None]:
    """Raise InputError or StorageError, with one message, for any error in the block."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{display_url} cannot hold studies: {error}. Name another with --storage") from error
    except (SQLAlchemyError, OSError, RuntimeError, StorageError) as error:
        raise StorageError(f"The study's database {display_url} cannot be opened: {first_line(error)}") from error


@dataclass(frozen=True)
class Before:
    """What a database had before the tables of sweeps were added.

    Attributes:
        journal_mode: the mode of a SQLite file.
        missing: the SQLite file, if it did not exist, and those of its folders that did not.
    """

    tables: frozenset[str]
    has_optuna: bool
    journal_mode: str | None
    missing: tuple[Path, ...]


def _look(address: URL, file: Path | None) -> Before | None:
    """Look at a database without a change to it; return what it has, None if it has the tables of studies.

    Raises:
        InputError: it is no database, or another program's.
    """
    if file and not file.exists():
        target = file.resolve()  # a link to a file that does not exist stays
        missing = [path for path in (target, *target.parents) if not path.exists()]
        return Before(frozenset(), False, None, tuple(missing))
    if file and not file.is_file():  # SQLite would wait for ever for a pipe
        raise InputError("it is no regular file")
    engine = sa.create_engine(address, poolclass=sa.NullPool, **_engine_options(address, file, read_only=True))
    try:
        if (whose := look_at_tables(engine)) == "sweeper":
            return None
        with engine.connect() as connection:
            mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar() if file else None
            return Before(frozenset(sa.inspect(connection).get_table_names()), whose == "optuna", mode, ())
    except sa.exc.DatabaseError as error:
        if file and getattr(error.orig, "sqlite_errorname", None) == "SQLITE_NOTADB":
            raise InputError("it is a file, but no SQLite database") from error
        raise
    finally:
        engine.dispose()


def _connect_with_retries(
    address: URL, file: Path | None, before: Before | None, **access: bool
) -> optuna.storages.RDBStorage:
    """Connect, and retry if another process creates Optuna's tables at the same moment."""
    deadline = time.monotonic() + OPEN_TIMEOUT_S
    while True:
        try:
            return _connect(address, file, before, **access)
        except SQLAlchemyError as error:
            # SQLite does not wait for a lock when it changes to WAL mode, and another process may do so now.
            is_race = isinstance(error, IntegrityError) or re.search("already exists|is locked", str(error))
            if not is_race or time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def _engine_options(address: URL, file: Path | None, *, read_only: bool) -> dict[str, Any]:
    if file and read_only:
        return {"creator": lambda: connect_to_read(file, timeout=LOCK_TIMEOUT_S)}
    if file:
        return {"connect_args": {"timeout": LOCK_TIMEOUT_S}}
    if address.get_driver_name() in ("psycopg", "psycopg2"):
        return {"connect_args": {k: v for k, v in _SERVER_OPTIONS.items() if k not in address.query}}
    return {}


def _connect(
    address: URL, file: Path | None, before: Before | None, *, must_exist: bool, read_only: bool
) -> optuna.storages.RDBStorage:
    url = address.render_as_string(hide_password=False)
    # A StudyView reads reports later, and must not keep a connection open until then.
    pool: dict[str, Any] = {"poolclass": sa.NullPool} if read_only else {}
    options = pool | _engine_options(address, file, read_only=read_only)
    if file and before is not None and before.missing:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600, exist_ok=True)  # SQLite gives its other files the same mode
    try:
        is_present = before is None or before.has_optuna  # in this version, or it is refused here
        storage = optuna.storages.RDBStorage(url, engine_kwargs=options, skip_table_creation=is_present)
    except RuntimeError as error:
        raise InputError(f"its tables are of another version of Optuna ({first_line(error)})") from error
    if not read_only:
        set_up(storage.engine)
    if must_exist or read_only:
        return storage
    if file:
        with storage.engine.connect() as connection:
            # Readers must not block the sweep; the file keeps the mode. The default `synchronous=FULL` is durable.
            connection.execute(sa.text("PRAGMA journal_mode=WAL"))
    create_tables(storage.engine)
    return storage


def _shorten_lock_timeout(connection: sa.Connection) -> None:
    if "sweeper_has_shortened" not in connection.info:  # this and the pragma last as long as the driver's connection
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {OWNER_LOCK_TIMEOUT_S * 1000}")
        connection.info["sweeper_has_shortened"] = True
