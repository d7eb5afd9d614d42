"""The database of studies: a SQLite file in WAL mode, or a server that Optuna supports."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from sweeper.core.errors import DatasetError, InputError, StorageError
from sweeper.core.files import PinnedPath, file_system_of
from sweeper.core.text import first_line
from sweeper.study.commands import Commands
from sweeper.study.database_url import is_sqlite_file, parse_database_url
from sweeper.study.lease import Lease, is_held
from sweeper.study.tables import check_schema_version, create_tables

optuna.logging.set_verbosity(optuna.logging.WARNING)


LOCK_TIMEOUT_S = 30
"""Lock timeout in seconds: how long a write waits for another process's lock on a SQLite file."""


OWNER_LOCK_TIMEOUT_S = 2
"""Lock timeout of the owner, in seconds. Short, because Python handles no signal while SQLite waits; the write is
retried (see `outage`)."""


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
        with self.engine.begin() as connection:
            lease.renew(connection)
            sessions.remove()
            sessions.registry.set(Session(connection, join_transaction_mode="rollback_only"))
            try:
                yield connection
            finally:
                sessions.remove()

    def commands(self, sweep: str) -> Commands:
        """Return the commands to a sweep."""
        return Commands(self.engine, sweep)

    def is_owned(self, sweep: str) -> bool:
        """Return whether a process owns the sweep; one on another machine counts until its lease is taken over."""
        return is_held(self.engine, sweep)


@contextmanager
def open_database(url: str, *, must_exist: bool = False) -> Iterator[Database]:
    """Open the database of studies, and create it with its tables on first use.

    A SQLite file that is created here is removed again if the block is refused and leaves no study in it.

    Args:
        must_exist: open it for reading, or to write to a study in it: nothing is created or changed here.

    Raises:
        InputError: the URL is not one, or `must_exist` and there is no such file.
        StorageError: the database cannot be reached, read or written.
    """
    address = parse_database_url(url)
    display_url = address.render_as_string(hide_password=True)
    on_disk = is_sqlite_file(address)
    if on_disk and must_exist and not Path(str(address.database)).exists():
        raise InputError(f"there is no {display_url} here: no sweep has run with it. Name the database with --storage")
    file = Path(str(address.database)).absolute() if on_disk else None
    created = [path for path in (file, *file.parents) if not path.exists()] if file and not must_exist else []
    if file and not must_exist:
        _refuse_network_file_system(file)
    try:
        storage = _connect_with_retries(address, on_disk=on_disk, is_reader=must_exist)
        check_schema_version(storage.engine)
        if not must_exist:
            create_tables(storage.engine)
    except (SQLAlchemyError, OSError, RuntimeError, StorageError) as error:
        raise StorageError(f"The study's database {display_url} cannot be opened: {first_line(error)}") from error
    is_refused = False
    try:
        yield Database(storage, storage.engine, display_url, PinnedPath(file, "the study's database") if file else None)
    except (InputError, DatasetError):
        is_refused = True
        raise
    finally:
        storage.remove_session()
        storage.engine.dispose()
        if is_refused and file in created:
            _remove_unused(created)


def _connect_with_retries(address: URL, *, on_disk: bool, is_reader: bool) -> optuna.storages.RDBStorage:
    """Connect, and retry if another process creates Optuna's tables at the same moment."""
    deadline = time.monotonic() + OPEN_TIMEOUT_S
    while True:
        try:
            return _connect(address, on_disk=on_disk, is_reader=is_reader)
        except SQLAlchemyError as error:
            # SQLite does not wait for a lock when it changes to WAL mode, and another process may do so now.
            is_race = isinstance(error, IntegrityError) or re.search("already exists|is locked", str(error))
            if not is_race or time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def _connect(address: URL, *, on_disk: bool, is_reader: bool) -> optuna.storages.RDBStorage:
    url = address.render_as_string(hide_password=False)
    options: dict[str, Any] = {"pool_pre_ping": True}
    if is_reader:  # a StudyView reads reports later, and must not keep a connection open until then
        options = {"poolclass": sa.NullPool}
    if not on_disk:
        if address.get_driver_name() in ("psycopg", "psycopg2"):
            options["connect_args"] = {k: v for k, v in _SERVER_OPTIONS.items() if k not in address.query}
        return optuna.storages.RDBStorage(url, engine_kwargs=options)
    options["connect_args"] = {"timeout": LOCK_TIMEOUT_S}
    if is_reader:
        return optuna.storages.RDBStorage(url, engine_kwargs=options)
    path = Path(str(address.database)).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600, exist_ok=True)  # SQLite gives its other files the same mode
    storage = optuna.storages.RDBStorage(url, engine_kwargs=options)
    with storage.engine.connect() as connection:
        # Readers (a dashboard, `sweeper show`) must not block the sweep; the file keeps the mode. SQLite's default
        # `synchronous=FULL` makes each commit durable.
        connection.execute(sa.text("PRAGMA journal_mode=WAL"))
    return storage


def _remove_unused(created: list[Path]) -> None:
    """Remove a SQLite file and the folders that were made for it, unless it holds a study or is open elsewhere."""
    file, *folders = created
    uri = f"{file.as_uri()}?mode=rw"
    with suppress(sqlite3.Error, OSError), closing(sqlite3.connect(uri, uri=True, timeout=0)) as connection:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        # A file leaves WAL mode only while no other process has it open.
        if connection.execute("PRAGMA journal_mode=DELETE").fetchone() != ("delete",):
            return
        if connection.execute("SELECT count(*) FROM studies").fetchone() == (0,):
            file.unlink()
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _shorten_lock_timeout(connection: sa.Connection) -> None:
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {OWNER_LOCK_TIMEOUT_S * 1000}")


def _refuse_network_file_system(file: Path) -> None:
    """Raise InputError for a file that several machines share: SQLite's write-ahead log needs shared memory."""
    kind = file_system_of(file)
    if kind.startswith(_NETWORK_FILE_SYSTEMS):
        raise InputError(
            f"{file} is on a network file system ({kind}), where SQLite loses data. Name a local file with --storage, "
            "or a server: --storage postgresql+psycopg://host/name"
        )
