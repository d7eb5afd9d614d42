"""Writing into a database that may be away: what can pass is waited out, anything else ends the sweep at once."""

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
from sweeper.study.database import Database

_DATABASE_ERRORS = (SQLAlchemyError, StorageInternalError)


# An I/O error is not among what passes: after a failed fsync nobody knows what is on the disk, and a second fsync
# would say that all is well (https://wiki.postgresql.org/wiki/Fsync_Errors).
_SQLITE_CAUSES = {
    sqlite3.SQLITE_BUSY: "locked by another process",
    sqlite3.SQLITE_LOCKED: "locked by another process",
    sqlite3.SQLITE_FULL: "disk full",
    sqlite3.SQLITE_IOERR_SHMSIZE: "disk full",  # no room for the index of its log
}


_SQLSTATE_CAUSES = {
    "08": "connection lost",
    "40": "transaction rolled back",
    "53": "out of resources",
    "53100": "disk full",
    "55P03": "locked by another process",
    "57": "shut down",
}
"""What a server says: an SQLSTATE, or its class (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""


class DatabaseOutage:
    """The time in which a study's database does not answer."""

    MAX_OUTAGE_S = 300.0
    """Seconds after which the sweep ends, to be taken up later."""
    QUIET_S = 5.0
    """Seconds that are nobody's concern."""
    BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
    """Seconds between one attempt and the next; the last is repeated."""

    def __init__(
        self, store: Database, announce: Callable[[str], None], stop_reason: Callable[[], StopReason | None]
    ) -> None:
        self._store = store
        self._name = f"the study's database {store.display_url}"
        self._announce = announce
        self._stop_reason = stop_reason
        self._began = time.monotonic()
        self._pauses = chain(self.BACKOFF_S, repeat(self.BACKOFF_S[-1]))
        self._is_announced = False

    def wait(self, error: BaseException) -> None:
        """Return when the next attempt is due.

        Raises:
            StorageError: another attempt is no use, or there have been enough.
            StoppedError: the sweep is to end.
        """
        cause = transient_cause(error, self._store)
        if cause is None:
            raise StorageError(f"{self._name} failed ({_words(error)}); stopping, to protect what it holds") from error
        waited = time.monotonic() - self._began
        if waited > self.MAX_OUTAGE_S:
            raise StorageError(
                f"{self._name} has been away for {waited:.0f} s ({cause}); what it holds is safe, and the same command "
                "goes on from there"
            ) from error
        if waited > self.QUIET_S and not self._is_announced:
            self._is_announced = True
            self._announce(f"{self._name} is away ({cause}): waiting")
        until = time.monotonic() + next(self._pauses)
        while time.monotonic() < until:
            if reason := self._stop_reason():
                raise StoppedError(reason, f"{self._name} is away ({cause}); what it holds is safe") from error
            time.sleep(0.05)

    def end(self) -> None:
        if self._is_announced:
            self._announce(f"{self._name} is back after {time.monotonic() - self._began:.0f} s")


class _Study(Protocol):
    @property
    def outage(self) -> Callable[[], DatabaseOutage]: ...

    def refresh(self) -> None: ...


_S = TypeVar("_S", bound=_Study)


_P = ParamSpec("_P")


_T = TypeVar("_T")


def retry_while_unavailable(write: Callable[Concatenate[_S, _P], _T]) -> Callable[Concatenate[_S, _P], _T]:
    """A method of a study that writes, called until the database takes it.

    After a failure nobody knows whether the commit was made: the study is read again, and the method has to notice
    what is on record already.
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
def storage_errors(store: Database) -> Iterator[None]:
    """Errors of the database as one message.

    Raises:
        StorageError: the database could not be read or written.
    """
    try:
        yield
    except _DATABASE_ERRORS as error:
        reason = transient_cause(error, store) or _words(error)
        raise StorageError(f"the study's database {store.display_url} cannot be used: {reason}") from error


def transient_cause(error: BaseException, store: Database) -> str | None:
    """Why the database is away, in words, if that may pass; None if it will not."""
    if isinstance(error, StorageInternalError):  # what Optuna makes of an error of SQLAlchemy's
        error = error.__cause__ or error
    if isinstance(error, PendingRollbackError):  # what follows on a connection that was lost
        return "connection lost"
    if not isinstance(error, DBAPIError):
        return None
    original = error.orig
    if isinstance(original, sqlite3.Error):
        code = getattr(original, "sqlite_errorcode", 0)
        cause = _SQLITE_CAUSES.get(code) or _SQLITE_CAUSES.get(code & 0xFF)  # the low byte is the kind of error
        return disk_full_message(store.file.path.parent) if store.file and cause == "disk full" else cause
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    if state:
        return _SQLSTATE_CAUSES.get(state) or _SQLSTATE_CAUSES.get(state[:2])
    # A server that cannot be reached, or hangs up, has no state to give.
    is_away = error.connection_invalidated or type(original).__name__ in ("OperationalError", "InterfaceError")
    return "it does not answer" if is_away else None


def _words(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return str(getattr(cause, "orig", None) or cause).strip().splitlines()[0]
