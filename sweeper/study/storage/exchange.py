"""Fewer waits for a database server: a transaction in one exchange, and no question whether it is there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from optuna.exceptions import StorageInternalError

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
        yield False
        return
    import psycopg

    logging.getLogger("psycopg").setLevel(logging.ERROR)  # it warns of errors that are raised all the same
    driver: Any = connection.connection.driver_connection
    try:
        driver.autocommit = True  # psycopg would wait for the answer to a BEGIN of its own
        with driver.pipeline() as pipeline, _answers_awaited(connection, pipeline.sync):
            connection.exec_driver_sql("BEGIN", execution_options=UNANSWERED)
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


def try_out_idle_connections(engine: sa.Engine) -> None:
    """Try out a connection that nobody has used for a while before it is used; `pool_pre_ping` does so each time."""

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
