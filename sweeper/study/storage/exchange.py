"""Fewer waits for a database: a transaction in few statements and one exchange, and no question whether it is there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb.storage import _create_scoped_session

IDLE_S = 1.0
"""Time after which a connection may have been closed by the server, a firewall or a proxy, and is tried out first."""


RESERVED_IDS = 32
"""Ids that are reserved at once: one wait for so many trials. Those that a process has not used are lost."""


UNANSWERED = {"unanswered": True}
"""Execution options of a statement whose answer nobody reads: neither rows, nor how many it has changed."""


@contextmanager
def one_exchange(connection: sa.Connection) -> Iterator[bool]:
    """Send what the block writes, and the commit, without a wait for each answer; yield whether that is possible.

    A server at 5 ms answers a report's statements one by one in 30. In psycopg's pipeline mode the server gets them
    all at once; one that fails fails all that follow, and so the commit. Only statements with the execution options
    `UNANSWERED` go without a wait.

    Raises:
        sqlalchemy.exc.DBAPIError: a statement has failed, and nothing was written; or the connection was lost, and
            nobody knows.
    """
    if connection.dialect.driver != "psycopg":
        with _rows_together(connection):
            yield False
        return
    import psycopg

    logging.getLogger("psycopg").setLevel(logging.ERROR)  # it warns of errors that are raised all the same
    driver: Any = connection.connection.driver_connection
    try:
        driver.autocommit = True  # psycopg would wait for the answer to a BEGIN of its own
        with driver.pipeline() as pipeline, _answers_awaited(connection, pipeline.sync):
            connection.exec_driver_sql("BEGIN", execution_options=UNANSWERED)
            with _rows_together(connection):
                yield True
            connection.exec_driver_sql("COMMIT", execution_options=UNANSWERED)
    except (psycopg.Error, sa.exc.DBAPIError, StorageInternalError) as error:
        if driver.closed:
            connection.invalidate(error)
        cause = _first_error(error)
        raise sa.exc.DBAPIError.instance(
            None, None, cause, psycopg.Error, connection_invalidated=driver.closed, dialect=connection.dialect
        ) from error
    finally:
        try:
            driver.rollback()  # of what has failed; after a commit there is nothing
            driver.autocommit = False
        except psycopg.Error:  # the connection is lost
            connection.invalidate()


_UNWRITTEN = "sweeper_unwritten"
"""Key, in what a connection knows, of the rows of its transaction that are not written yet."""


@contextmanager
def _rows_together(connection: sa.Connection) -> Iterator[None]:
    """Write the rows that the block gives to `write_row` with one statement for each table, at the end of the block.

    They are written earlier if another statement is executed, which may read them. A statement costs SQLAlchemy,
    psycopg and the socket 0.2 ms of CPU, and each time the other threads of this process may take Python's lock.
    """
    known, unwritten = connection.info, _Unwritten()

    def write_first(connection: sa.Connection, statement: Any, many: Any, parameters: Any, options: Any) -> None:
        unwritten.write(connection)

    known[_UNWRITTEN] = unwritten
    sa.event.listen(connection, "before_execute", write_first)
    try:
        yield
        unwritten.write(connection)
    finally:
        sa.event.remove(connection, "before_execute", write_first)
        known.pop(_UNWRITTEN, None)  # a pool forgets what a lost connection knew


def write_row(connection: sa.Connection, table: sa.Table, *rows: Mapping[str, Any]) -> None:
    """Write new rows of a table, with values for the same columns: at once, or with the others of `one_exchange`."""
    unwritten: _Unwritten = connection.info.get(_UNWRITTEN) or _Unwritten()
    unwritten.rows.setdefault(table, []).extend(rows)
    if _UNWRITTEN not in connection.info:
        unwritten.write(connection)


def write_change(connection: sa.Connection, update: sa.Update, values: Mapping[str, Any]) -> None:
    """Execute an UPDATE with these values for its parameters: at once, or at the end of `one_exchange`."""
    unwritten: _Unwritten = connection.info.get(_UNWRITTEN) or _Unwritten()
    unwritten.changes.setdefault(update, []).append(values)
    if _UNWRITTEN not in connection.info:
        unwritten.write(connection)


@contextmanager
def connection_of(storage: RDBStorage) -> Iterator[sa.Connection]:
    """Yield the connection of the transaction that is open, or that of a transaction for the block."""
    if isinstance(connection := storage.scoped_session().get_bind(), sa.Connection):
        yield connection  # Optuna's session would take as long to pass a statement on as the statement takes
        return
    with _create_scoped_session(storage.scoped_session) as session:
        yield session.connection()


class _Unwritten:
    """What is to be written: new rows by table, then the parameters of each UPDATE."""

    def __init__(self) -> None:
        self.rows: dict[sa.Table, list[Mapping[str, Any]]] = {}
        self.changes: dict[sa.Update, list[Mapping[str, Any]]] = {}

    def write(self, connection: sa.Connection) -> None:
        rows, self.rows = self.rows, {}
        changes, self.changes = self.changes, {}
        for table in sa.schema.sort_tables(rows) if len(rows) > 1 else rows:  # a trial before its parameters
            connection.execute(_insert_into(table), rows[table], execution_options=UNANSWERED)
        for update, values in changes.items():
            connection.execute(update, values, execution_options=UNANSWERED)


@cache
def _insert_into(table: sa.Table) -> sa.Insert:
    return table.insert().inline()


def _first_error(error: BaseException) -> Any:
    """Return the server's first error, which failed all statements after it."""
    import psycopg

    found: BaseException | None = error
    while found is not None:
        original = getattr(found, "orig", found)
        if isinstance(original, psycopg.Error) and not isinstance(original, psycopg.errors.PipelineAborted):
            return original
        found = found.__cause__ or found.__context__
    return getattr(error, "orig", error)


def reserve_ids(connection: sa.Connection) -> list[int]:
    """Return ids for trials to come, which nobody else gets, on PostgreSQL; none on other databases.

    Optuna 5.0 waits, after each trial that it creates, for the id that the server gave it.
    """
    if connection.dialect.name != "postgresql":
        return []
    statement = "SELECT nextval(pg_get_serial_sequence('trials', 'trial_id')) FROM generate_series(1, %(ids)s)"
    return [row[0] for row in connection.exec_driver_sql(statement, {"ids": RESERVED_IDS}) if row[0] is not None]


@contextmanager
def division_by_zero_means(error: Callable[[], Exception]) -> Iterator[None]:
    """Raise another error if a transaction in the block divides by zero, as it does on purpose."""
    try:
        yield
    except sa.exc.DataError as found:
        # https://www.postgresql.org/docs/current/errcodes-appendix.html
        if getattr(found.orig, "sqlstate", None) != "22012":
            raise
        raise error() from found


@contextmanager
def _answers_awaited(connection: sa.Connection, wait: Callable[[], None]) -> Iterator[None]:
    """Wait, in the block, for the answer to each statement without the option; SQLAlchemy reads it at once."""

    def wait_for_answer(_: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if not context.execution_options.get("unanswered"):
            wait()

    sa.event.listen(connection, "after_cursor_execute", wait_for_answer)
    try:
        yield
    finally:
        sa.event.remove(connection, "after_cursor_execute", wait_for_answer)


def set_up(engine: sa.Engine) -> None:
    """Try out a connection that nobody has used for a while before it is used; `pool_pre_ping` does so each time.

    Many new rows of a table go to PostgreSQL as one statement; psycopg would send one for each.
    """
    if engine.dialect.driver == "psycopg":
        engine.dialect.use_insertmanyvalues_wo_returning = True

    @sa.event.listens_for(engine, "checkin")
    def note_use(connection: Any, record: Any) -> None:
        record.info["used"] = time.monotonic()

    @sa.event.listens_for(engine, "checkout")
    def try_out(connection: Any, record: Any, proxy: Any) -> None:
        if time.monotonic() - record.info.get("used", time.monotonic()) < IDLE_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise sa.exc.DisconnectionError from error  # the pool takes another connection
