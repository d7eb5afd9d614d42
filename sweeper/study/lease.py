"""Lease on a sweep: a row in the study's database that one process at a time can hold."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from sweeper.core.errors import LeaseLostError, SweepBusyError
from sweeper.study.storage.exchange import UNANSWERED
from sweeper.study.storage.tables import LEASES, tables

logger = logging.getLogger(__name__)


OWNER_CHARS, SPACE_CHARS = 32, 16
"""Length of an owner's id, and of its first part, the digits of the owner's process space."""


MAX_CLOCK_ERROR_S = 2.0
"""Largest difference between two readings of the time at which a process started."""


_leases = sa.Table(
    LEASES,
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
    """The process that holds a lease; `owner` begins with its process space, `beats` counts its renewals."""

    owner: str
    host: str
    pid: int
    process_started: float
    since: float
    beats: int

    def is_near(self) -> bool:
        """Return whether the holder's process id means the same process here as where the holder runs."""
        return self.host == _host() and self.owner.startswith(_process_space())

    def is_dead(self) -> bool:
        """Return whether the holder is known to have ended. Only processes that are near can be checked."""
        if not self.is_near():
            return False
        try:
            os.kill(self.pid, 0)
            return bool(psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE)  # in containers nobody may reap it
        except (ProcessLookupError, psutil.ZombieProcess):
            return True
        except (PermissionError, psutil.Error):  # another user's, which /proc may hide
            return False

    def is_alive(self) -> bool:
        """Return whether the holder is known to run."""
        if not self.is_near():
            return False
        try:
            return bool(abs(psutil.Process(self.pid).create_time() - self.process_started) <= MAX_CLOCK_ERROR_S)
        except psutil.Error:
            return False


class Lease:
    """The lease of one process on one sweep. It expires by itself after a crash.

    The holder counts up `beats`. Another process takes the lease when the holder's process has ended or, where that
    cannot be known (a holder on another machine or in another container, a process id that was given away again, a
    clock that was changed), when the count has not changed for EXPIRY_S seconds. So no two clocks are compared.
    """

    RENEWAL_INTERVAL_S = 3.0
    EXPIRY_S = 15.0

    def __init__(self, engine: sa.Engine, sweep: str) -> None:
        self._engine = engine
        self._sweep = sweep
        self._owner = f"{_process_space()}{uuid4().hex}"[:OWNER_CHARS]
        self._own_row = _leases.c.sweep == sweep, _leases.c.owner == self._owner
        self._renewal = _leases.update().where(*self._own_row).values(beats=_leases.c.beats + 1)
        # Fails unless this process holds the lease. PostgreSQL has no simpler way to fail a transaction on a condition.
        division: Any = sa.select(sa.literal_column("1 / count(*)")).select_from(_leases)
        self._division_by_none = division.where(*self._own_row).execution_options(**UNANSWERED)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_released, name="sweeper-lease", daemon=True)
        self.lost = threading.Event()
        self.has_displaced = False
        """True if it was taken from a holder that stopped renewing it and may still run."""

    def acquire(self) -> None:
        """Take the lease, or raise SweepBusyError that names its holder."""
        seen = find_holder(self._engine, self._sweep)
        if seen is not None and not seen.is_dead():
            self._wait_for_expiry(seen)
            self.has_displaced = True
        if not self._take(seen):
            raise SweepBusyError(_busy_message(self._sweep, find_holder(self._engine, self._sweep)))
        self._thread.start()

    def renew(self, connection: sa.Connection, *, is_answered: bool = True) -> None:
        """Renew the lease as part of a transaction, which then only the holder can commit.

        Call it first in the transaction. Until the transaction ends no other process can take the lease, even if this
        process is suspended.

        Args:
            is_answered: whether the answer can be read now; if not, the transaction fails with a division by zero.

        Raises:
            LeaseLostError: another process has taken the lease.
        """
        renewed = connection.execute(self._renewal, execution_options={} if is_answered else UNANSWERED)
        if not is_answered:
            connection.execute(self._division_by_none)
        elif renewed.rowcount == 0:
            raise self.loss()

    def loss(self) -> LeaseLostError:
        """Note that another process has taken the lease; return the error that says which."""
        self.lost.set()
        return LeaseLostError(self._lost_message(find_holder(self._engine, self._sweep)))

    def require(self) -> None:
        """Raise LeaseLostError if another process is known to have taken the lease."""
        if self.lost.is_set():
            raise self.loss()

    def release(self) -> None:
        """Give the lease up, so that another process can take it at once."""
        self._ended.set()
        self._thread.join()
        try:
            with self._engine.begin() as connection:
                connection.execute(_leases.delete().where(*self._own_row))
        except SQLAlchemyError as error:
            logger.warning(
                "The lease on sweep %r could not be released (%s). It expires by itself.", self._sweep, error
            )

    def _wait_for_expiry(self, seen: Holder) -> None:
        """Wait until the lease has expired; raise SweepBusyError if its holder renews it, or is known to run."""
        if seen.is_alive():
            raise SweepBusyError(_busy_message(self._sweep, seen))
        deadline = time.monotonic() + self.EXPIRY_S
        while time.monotonic() < deadline:
            time.sleep(self.RENEWAL_INTERVAL_S / 3)
            if (now := _find_renewed(self._engine, self._sweep, seen)) is not None:
                raise SweepBusyError(_busy_message(self._sweep, now))

    def _take(self, seen: Holder | None) -> bool:
        """Return whether this process now has the lease; not, if it changed since `seen` was read."""
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

    def _renew_until_released(self) -> None:
        while not self._ended.wait(self.RENEWAL_INTERVAL_S):
            try:
                with self._engine.begin() as connection:
                    self.renew(connection)
            except LeaseLostError:
                return
            except SQLAlchemyError:  # the next write of the study waits for the database, and announces it
                logger.debug("The lease on sweep %r could not be renewed.", self._sweep, exc_info=True)

    def _lost_message(self, now: Holder | None) -> str:
        taker = f"Process {now.pid} on {now.host}" if now else "Another process"
        return (
            f"{taker} took over sweep {self._sweep!r}, so this process lost the lease and stops. "
            "It has written nothing since."
        )


def find_held(engine: sa.Engine, sweeps: Iterable[str]) -> set[str]:
    """Return which of these sweeps a process owns; one on another machine counts until its lease is taken over.

    Waits for signs of life of processes of this machine that cannot be seen: in another container, or before a restart.
    """
    found = {sweep: find_holder(engine, sweep) for sweep in sweeps}
    seen = {sweep: holder for sweep, holder in found.items() if holder is not None and not holder.is_dead()}
    held = {sweep for sweep, holder in seen.items() if holder.host != _host() or holder.is_alive()}
    deadline = time.monotonic() + Lease.EXPIRY_S
    while (unknown := seen.keys() - held) and time.monotonic() < deadline:
        time.sleep(Lease.RENEWAL_INTERVAL_S / 3)
        held |= {sweep for sweep in unknown if _find_renewed(engine, sweep, seen[sweep])}
    return held


def _find_renewed(engine: sa.Engine, sweep: str, seen: Holder) -> Holder | None:
    """Return the holder of a lease that was renewed or taken since `seen` was read; otherwise None."""
    now = find_holder(engine, sweep)
    return now if now is not None and (now.owner, now.beats) != (seen.owner, seen.beats) else None


def find_holder(engine: sa.Engine, sweep: str) -> Holder | None:
    """Return the holder of the lease on a sweep, even if its process has ended; None if nobody holds it."""
    with engine.connect() as connection:
        return _read_holder(connection, sweep)


def _read_holder(connection: sa.Connection, sweep: str) -> Holder | None:
    columns = [column for column in _leases.c if column.name != "sweep"]
    row = connection.execute(sa.select(*columns).where(_leases.c.sweep == sweep)).one_or_none()
    return None if row is None else Holder(**row._mapping)


def _busy_message(sweep: str, holder: Holder | None) -> str:
    if holder is None:
        return f"another process started sweep {sweep!r} a moment ago; try again"
    since = time.strftime("%H:%M", time.localtime(holder.since))
    return (
        f"sweep {sweep!r} is running (pid {holder.pid} on {holder.host}, since {since}). "
        f"Choose another name with --name, or wait for it to end"
    )


def _host() -> str:
    return socket.gethostname()


def _process_space() -> str:
    """Return 16 digits for all processes that see each other by the same process ids: of one boot and one container.

    Two containers on a machine may have the same host name, and so may two machines. Where the space is not known, the
    digits are random: then no process is near.
    """
    if not sys.platform.startswith("linux"):  # without containers, the host name has to do
        return hashlib.sha256(_host().encode()).hexdigest()[:SPACE_CHARS]
    proc = Path("/proc")
    try:
        if os.readlink(proc / "self") != str(os.getpid()):  # /proc shows the processes of another container
            return uuid4().hex[:SPACE_CHARS]
        boot = (proc / "sys/kernel/random/boot_id").read_text()
        space = f"{boot} {os.readlink(proc / 'self/ns/pid')}"
    except OSError:
        return uuid4().hex[:SPACE_CHARS]
    return hashlib.sha256(space.encode()).hexdigest()[:SPACE_CHARS]
