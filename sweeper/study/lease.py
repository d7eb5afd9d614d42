"""The right to run a sweep: one owner at a time, by a row in the study's own database."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from dataclasses import dataclass
from uuid import uuid4

import psutil
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from sweeper.core.errors import LeaseLostError, SweepBusyError
from sweeper.study.tables import tables

logger = logging.getLogger(__name__)


_leases = sa.Table(
    "sweeper_leases",
    tables,
    sa.Column("sweep", sa.String(64), primary_key=True),
    sa.Column("owner", sa.String(32), nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("process_started", sa.Double, nullable=False),
    sa.Column("since", sa.Double, nullable=False),
    sa.Column("beats", sa.BigInteger, nullable=False),
)


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, and how often it has said so."""

    owner: str
    host: str
    pid: int
    process_started: float
    since: float
    beats: int

    def is_dead(self) -> bool:
        """Whether the holder is known to be gone: only a process of this machine can be known."""
        if self.host != _host():
            return False
        try:
            return bool(abs(psutil.Process(self.pid).create_time() - self.process_started) > 2)
        except psutil.NoSuchProcess:
            return True


class Lease:
    """The right to run one sweep: one owner at a time, freed by itself after a crash.

    The owner counts up `beats`. Another process takes over when the owner's process is gone, or, for an owner on
    another machine, when the count has stood still for `EXPIRY` seconds. No clock is compared with another one.
    """

    BEAT = 3.0
    EXPIRY = 15.0

    def __init__(self, engine: sa.Engine, sweep: str) -> None:
        self._engine = engine
        self._sweep = sweep
        self._owner = uuid4().hex
        self._mine = _leases.c.sweep == sweep, _leases.c.owner == self._owner
        self._renewal = _leases.update().where(*self._mine).values(beats=_leases.c.beats + 1)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="sweeper-lease", daemon=True)
        self.lost = threading.Event()
        self.has_displaced = False
        """Whether it was taken from an owner that gave no sign of life, and may still have one."""

    def acquire(self) -> None:
        """Take the lease, or raise SweepBusyError naming its holder."""
        seen = holder(self._engine, self._sweep)
        if seen is not None and not seen.is_dead():
            self._wait_for_expiry(seen)
            self.has_displaced = True
        if not self._take(seen):
            raise SweepBusyError(_busy(self._sweep, holder(self._engine, self._sweep)))
        self._thread.start()

    def renew(self, connection: sa.Connection) -> None:
        """Make a transaction one of the owner: it is a sign of life, and cannot be committed by anybody else.

        To be called first in the transaction. Until its end no other process can take the lease, however long this
        one is held up.

        Raises:
            LeaseLostError: another process has it.
        """
        if connection.execute(self._renewal).rowcount == 0:
            self.lost.set()
            raise LeaseLostError(self._story(_holder(connection, self._sweep)))

    def require(self) -> None:
        """Raise LeaseLostError if another process is known to have the lease."""
        if self.lost.is_set():
            raise LeaseLostError(self._story(holder(self._engine, self._sweep)))

    def release(self) -> None:
        self._ended.set()
        self._thread.join()
        try:
            with self._engine.begin() as connection:
                connection.execute(_leases.delete().where(*self._mine))
        except SQLAlchemyError as error:  # it expires by itself
            logger.warning("the lease of sweep %r could not be released: %s", self._sweep, error)

    def _wait_for_expiry(self, seen: Holder) -> None:
        if seen.host == _host():
            raise SweepBusyError(_busy(self._sweep, seen))
        deadline = time.monotonic() + self.EXPIRY
        while time.monotonic() < deadline:
            time.sleep(self.BEAT / 3)
            now = holder(self._engine, self._sweep)
            if now is not None and (now.owner, now.beats) != (seen.owner, seen.beats):
                raise SweepBusyError(_busy(self._sweep, now))

    def _take(self, seen: Holder | None) -> bool:
        row = {
            "sweep": self._sweep,
            "owner": self._owner,
            "host": _host(),
            "pid": os.getpid(),
            "process_started": psutil.Process().create_time(),
            "since": time.time(),
            "beats": 0,
        }
        try:
            with self._engine.begin() as connection:
                if seen is None:
                    connection.execute(_leases.insert().values(**row))
                    return True
                unchanged = (
                    _leases.c.sweep == self._sweep,
                    _leases.c.owner == seen.owner,
                    _leases.c.beats == seen.beats,
                )
                return connection.execute(_leases.update().where(*unchanged).values(**row)).rowcount == 1
        except IntegrityError:  # another process was first
            return False

    def _beat(self) -> None:
        while not self._ended.wait(self.BEAT):
            try:
                with self._engine.begin() as connection:
                    self.renew(connection)
            except LeaseLostError:
                return
            except SQLAlchemyError:  # whoever writes next waits for the database, and says so
                logger.debug("the lease of sweep %r could not be renewed", self._sweep, exc_info=True)

    def _story(self, now: Holder | None) -> str:
        taker = f"pid {now.pid} on {now.host}" if now else "another process"
        return f"lost the lease of sweep {self._sweep!r} to {taker}, which goes on with it; nothing was written since"


def holder(engine: sa.Engine, sweep: str) -> Holder | None:
    """Who holds the lease of a sweep, dead or alive."""
    with engine.connect() as connection:
        return _holder(connection, sweep)


def _holder(connection: sa.Connection, sweep: str) -> Holder | None:
    columns = [column for column in _leases.c if column.name != "sweep"]
    row = connection.execute(sa.select(*columns).where(_leases.c.sweep == sweep)).one_or_none()
    return None if row is None else Holder(**row._mapping)


def _busy(sweep: str, holder: Holder | None) -> str:
    if holder is None:
        return f"sweep {sweep!r} was taken by another process a moment ago; try again"
    since = time.strftime("%H:%M", time.localtime(holder.since))
    return (
        f"sweep {sweep!r} is running (pid {holder.pid} on {holder.host}, since {since}). "
        f"Choose another name with --name, or wait for it to end"
    )


def _host() -> str:
    return socket.gethostname()
