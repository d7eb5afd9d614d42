"""The database of studies: opened once, checked, redacted when shown; SQLite in WAL mode or any server Optuna takes."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session

from sweeper.errors import InputError, StorageError
from sweeper.orders import Orders
from sweeper.paths import check_file
from sweeper.records import Lease, create_tables, holder
from sweeper.spec.urls import fault_of_database

optuna.logging.set_verbosity(optuna.logging.WARNING)

_LOCK_TIMEOUT = 30
"""Seconds that a write waits for another process's lock on a SQLite file."""


@dataclass(frozen=True)
class Store:
    """An open database: Optuna's storage, the engine under it, and its URL without a password."""

    optuna: optuna.storages.RDBStorage
    engine: sa.Engine
    shown: str

    @contextmanager
    def lease(self, sweep: str) -> Iterator[Lease]:
        """Own a sweep for the time of the block."""
        lease = Lease(self.engine, sweep)
        lease.acquire()
        try:
            yield lease
        finally:
            lease.release()

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """One commit for all that this thread writes in the block, Optuna's part included: all of it is there or none.

        Optuna commits each of its own small writes, and each commit waits for the disk.
        """
        sessions = self.optuna.scoped_session
        with self.engine.begin() as connection:
            sessions.remove()
            sessions.registry.set(Session(connection, join_transaction_mode="rollback_only"))
            try:
                yield connection
            finally:
                sessions.remove()

    def orders(self, sweep: str) -> Orders:
        return Orders(self.engine, sweep)

    def is_owned(self, sweep: str) -> bool:
        owner = holder(self.engine, sweep)
        return owner is not None and not owner.is_dead()


def check_store(url: str) -> None:
    """Look for what would keep a study out of a database, as far as can be seen without opening it.

    Raises:
        InputError: it names none, its driver is not installed, or its file cannot be written.
    """
    if fault := fault_of_database(url, secrets=True):
        raise InputError(f"the database of studies {fault}")
    address = _address(url)
    try:
        address.get_dialect().import_dbapi()
    except (ImportError, NoSuchModuleError) as error:
        raise InputError(
            f"the database of studies has no driver here ({_first_line(error)}); for PostgreSQL: "
            f"pip install 'sweeper[postgres]', and postgresql+psycopg://host/name"
        ) from error
    if _is_file(address):
        check_file(Path(str(address.database)), "choose another database with --storage")


@contextmanager
def open_store(url: str, *, must_exist: bool = False) -> Iterator[Store]:
    """Open the database of studies, making its tables on first use.

    Raises:
        InputError: the URL is not one, or `must_exist` and there is no such file.
        StorageError: the database cannot be reached, read or written.
    """
    address = _address(url)
    shown = address.render_as_string(hide_password=True)
    is_file = _is_file(address)
    if is_file and must_exist and not Path(str(address.database)).exists():
        raise InputError(f"there is no {shown} here: no sweep has run with it. Name the database with --storage")
    try:
        storage = _connect_in_turn(address, is_file=is_file, is_reader=must_exist)
        create_tables(storage.engine)
    except (SQLAlchemyError, OSError, RuntimeError) as error:
        raise StorageError(f"the study's database {shown} cannot be opened: {_first_line(error)}") from error
    try:
        yield Store(storage, storage.engine, shown)
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _connect_in_turn(address: URL, *, is_file: bool, is_reader: bool) -> optuna.storages.RDBStorage:
    """Connect; again, when other processes were making Optuna's tables at the same moment."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return _connect(address, is_file=is_file, is_reader=is_reader)
        except SQLAlchemyError as error:
            # SQLite does not wait for a lock when it changes to WAL mode: another process may be about the same.
            is_race = isinstance(error, IntegrityError) or re.search("already exists|is locked", str(error))
            if not is_race or time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def _connect(address: URL, *, is_file: bool, is_reader: bool) -> optuna.storages.RDBStorage:
    url = address.render_as_string(hide_password=False)
    options: dict[str, Any] = {"pool_pre_ping": True}
    if is_reader:  # a study that was read may still be asked for reports, and must not keep a connection for that
        options = {"poolclass": sa.NullPool}
    if not is_file:
        return optuna.storages.RDBStorage(url, engine_kwargs=options)
    path = Path(str(address.database)).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600, exist_ok=True)  # SQLite gives its other files the same mode
    storage = optuna.storages.RDBStorage(url, engine_kwargs={**options, "connect_args": {"timeout": _LOCK_TIMEOUT}})
    with storage.engine.connect() as connection:
        # Readers (a dashboard, `sweeper show`) must not block the sweep; the mode stays with the file. SQLite's default
        # `synchronous=FULL` makes each commit durable.
        connection.execute(sa.text("PRAGMA journal_mode=WAL"))
    return storage


def _address(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError) as error:
        raise InputError(
            f"storage {url!r} is not a database URL; try sqlite:///sweeper.db or postgresql+psycopg://host/name"
        ) from error


def _is_file(address: URL) -> bool:
    return address.get_backend_name() == "sqlite" and bool(address.database)


def _first_line(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]
