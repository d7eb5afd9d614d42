"""Retry writes while the study's database is unavailable; raise at once on errors that do not pass."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from itertools import chain, repeat
from typing import Concatenate, ParamSpec, Protocol, TypeVar, cast

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, PendingRollbackError, SQLAlchemyError

from sweeper.core.errors import StoppedError, StopReason, StorageError
from sweeper.core.files import disk_full_message
from sweeper.core.text import first_line
from sweeper.study.database import Database

_DATABASE_ERRORS = (SQLAlchemyError, StorageInternalError)


# An I/O error is not transient: after a failed fsync nobody knows what is on the disk, and a second fsync would report
# success (https://wiki.postgresql.org/wiki/Fsync_Errors).
_SQLITE_CAUSES = {
    sqlite3.SQLITE_BUSY: "locked by another process",
    sqlite3.SQLITE_LOCKED: "locked by another process",
    sqlite3.SQLITE_FULL: "disk full",
    sqlite3.SQLITE_IOERR_SHMSIZE: "disk full",  # no room for the index of the write-ahead log
}


_SQLSTATE_CAUSES = {
    "08": "connection lost",
    "40": "transaction rolled back",
    "53": "out of resources",
    "53100": "disk full",
    "55P03": "locked by another process",
    "57": "shut down",
}
"""Transient errors by SQLSTATE or its class (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""


_SAFE_TO_RESUME = "Everything recorded is safe; run the same command again to resume."


class DatabaseOutage:
    """One outage of a study's database: backs off between attempts, announces it, and gives up after a while."""

    MAX_OUTAGE_S = 300.0
    """Longest outage, in seconds; after that the sweep ends and can be resumed."""
    QUIET_S = 5.0
    """Seconds before the outage is announced."""
    BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
    """Seconds between attempts; the last value is repeated."""

    def __init__(
        self, database: Database, announce: Callable[[str], None], stop_reason: Callable[[], StopReason | None]
    ) -> None:
        self._database = database
        self._name = f"study's database {database.display_url}"
        self._announce = announce
        self._stop_reason = stop_reason
        self._began = time.monotonic()
        self._pauses = chain(self.BACKOFF_S, repeat(self.BACKOFF_S[-1]))
        self._is_announced = False

    def wait(self, error: BaseException) -> None:
        """Wait until the next attempt is due.

        Raises:
            StorageError: the error is not transient, or the outage has lasted longer than MAX_OUTAGE_S.
            StoppedError: the sweep was stopped while it waited.
        """
        cause = transient_cause(error, self._database)
        if cause is None:
            raise StorageError(
                f"The {self._name} failed ({first_line(_unwrapped(error))}). The sweep stops, to protect what is "
                "recorded; check the database and its disk, then run the same command again to resume."
            ) from error
        waited = time.monotonic() - self._began
        if waited > self.MAX_OUTAGE_S:
            raise StorageError(
                f"The {self._name} was unavailable for {waited:.0f} s ({cause}). {_SAFE_TO_RESUME}"
            ) from error
        if waited > self.QUIET_S and not self._is_announced:
            self._is_announced = True
            minutes = f"{self.MAX_OUTAGE_S / 60:.0f} minutes"
            self._announce(f"The {self._name} is unavailable ({cause}). Trials wait; retrying for up to {minutes}.")
        until = time.monotonic() + next(self._pauses)
        while time.monotonic() < until:
            if reason := self._stop_reason():
                raise StoppedError(reason, f"the {self._name} was unavailable ({cause}). {_SAFE_TO_RESUME}") from error
            time.sleep(0.05)

    def end(self) -> None:
        """Announce the end of the outage, if its beginning was announced."""
        if self._is_announced:
            self._announce(f"The {self._name} is available again after {time.monotonic() - self._began:.0f} s.")


class _Study(Protocol):
    @property
    def outage(self) -> Callable[[], DatabaseOutage]: ...

    def refresh(self) -> None: ...


_S = TypeVar("_S", bound=_Study)


_P = ParamSpec("_P")


_T = TypeVar("_T")


def retry_while_unavailable(write: Callable[Concatenate[_S, _P], _T]) -> Callable[Concatenate[_S, _P], _T]:
    """Decorate a method of a study that writes: retry it while the database is unavailable.

    After a failure nobody knows whether the commit was made. So the study is read again before the next attempt, and
    the method must notice what is recorded already.
    """

    @wraps(write)
    def call_with_retries(self: _S, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        outage: DatabaseOutage | None = None
        while True:
            try:
                if outage is not None:
                    self.refresh()
                written = write(self, *args, **kwargs)
            except _DATABASE_ERRORS as error:
                outage = outage or self.outage()
                outage.wait(error)
            else:
                if outage is not None:
                    outage.end()
                return written

    return cast(Callable[Concatenate[_S, _P], _T], call_with_retries)


@contextmanager
def storage_errors(database: Database) -> Iterator[None]:
    """Raise StorageError, with one message, for any error of the database in the block."""
    try:
        yield
    except _DATABASE_ERRORS as error:
        reason = transient_cause(error, database) or first_line(_unwrapped(error))
        raise StorageError(f"The study's database {database.display_url} cannot be used: {reason}.") from error


def transient_cause(error: BaseException, database: Database) -> str | None:
    """Return why the database is unavailable, for people; None if the error is not transient."""
    error = _unwrapped(error)
    if isinstance(error, PendingRollbackError):  # follows on a connection that was lost
        return "connection lost"
    if not isinstance(error, DBAPIError):
        return None
    return _sqlite_cause(error.orig, database) if isinstance(error.orig, sqlite3.Error) else _server_cause(error)


def _sqlite_cause(error: sqlite3.Error, database: Database) -> str | None:
    code = getattr(error, "sqlite_errorcode", 0)
    cause = _SQLITE_CAUSES.get(code) or _SQLITE_CAUSES.get(code & 0xFF)  # the low byte is the kind of error
    return disk_full_message(database.file.path.parent) if database.file and cause == "disk full" else cause


def _server_cause(error: DBAPIError) -> str | None:
    state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    if state:
        return _SQLSTATE_CAUSES.get(state) or _SQLSTATE_CAUSES.get(state[:2])
    # A server that cannot be reached, or that closes the connection, sends no SQLSTATE.
    is_lost = error.connection_invalidated or type(error.orig).__name__ in ("OperationalError", "InterfaceError")
    return "it does not answer" if is_lost else None


def _unwrapped(error: BaseException) -> BaseException:
    """Return the error of SQLAlchemy that Optuna wrapped in its own, else the error itself."""
    return (error.__cause__ or error) if isinstance(error, StorageInternalError) else error
