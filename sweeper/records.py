"""What Optuna's schema has no place for, in the study's own database: every metric, failed attempts, the lease."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from uuid import uuid4

import psutil
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from sweeper.errors import LeaseLostError, StorageError, SweepBusyError
from sweeper.failures import Attempt
from sweeper.redaction import redact
from sweeper.trial import Report

logger = logging.getLogger(__name__)

tables = sa.MetaData()

_reports = sa.Table(
    "sweeper_reports",
    tables,
    sa.Column("sweep", sa.String(64), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("step", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("time", sa.Double, nullable=False),
    sa.Column("metrics", sa.Text, nullable=False),
)

_attempts = sa.Table(
    "sweeper_attempts",
    tables,
    sa.Column("sweep", sa.String(64), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("node", sa.String(255)),
    sa.Column("ended", sa.Double, nullable=False),
)

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


_schema = sa.Table(
    "sweeper_schema",
    tables,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
)
_VERSION = 1
"""Of these tables. Each that was ever released can be read; a newer one cannot be known here."""


def create_tables(engine: sa.Engine) -> None:
    """Create sweeper's tables where they are missing; safe when several processes do it at once.

    Raises:
        StorageError: they were made by a newer sweeper.
    """
    try:
        tables.create_all(engine)
    except SQLAlchemyError:  # another process made them between the look and the CREATE
        tables.create_all(engine)
    with engine.connect() as connection:
        found = connection.execute(sa.select(sa.func.max(_schema.c.version))).scalar()
    if found is None:
        with suppress(IntegrityError), engine.begin() as connection:  # another process was first
            connection.execute(_schema.insert().values(version=_VERSION))
    elif found > _VERSION:
        raise StorageError(
            f"it was written by a newer sweeper (schema {found}; this one knows {_VERSION}): upgrade sweeper"
        )


class Reports:
    """Every report of every trial of one sweep, written once per (trial, step)."""

    def __init__(self, engine: sa.Engine, sweep: str) -> None:
        self._engine = engine
        self._sweep = sweep

    def add(self, number: int, report: Report, connection: sa.Connection) -> None:
        """Write a report as part of the connection's transaction."""
        row = {"sweep": self._sweep, "number": number, "step": report.step, "time": report.time}
        connection.execute(_reports.insert(), {**row, "metrics": json.dumps(report.metrics)})

    def of(self, number: int) -> list[Report]:
        """The reports of one trial, in the order of their steps."""
        query = (
            sa.select(_reports.c.step, _reports.c.time, _reports.c.metrics)
            .where(_reports.c.sweep == self._sweep, _reports.c.number == number)
            .order_by(_reports.c.step)
        )
        with self._engine.connect() as connection:
            return [Report(step, when, json.loads(metrics)) for step, when, metrics in connection.execute(query)]


_LONGEST = 1000
"""Characters of a reason that are kept."""


class Attempts:
    """Every attempt of one sweep that failed, written once per (trial, attempt)."""

    def __init__(self, engine: sa.Engine, sweep: str) -> None:
        self._engine = engine
        self._sweep = sweep

    def add(self, number: int, attempt: Attempt, connection: sa.Connection) -> None:
        """Write an attempt as part of the connection's transaction."""
        row = {**asdict(attempt), "ended": attempt.ended.timestamp()}
        connection.execute(_attempts.insert(), {"sweep": self._sweep, "number": number, **row})

    def forgive(self, attempts: Sequence[tuple[int, int]], connection: sa.Connection) -> None:
        """Blame the node, and no longer the trial, for attempts that failed."""
        mine = _attempts.c.sweep == self._sweep, sa.tuple_(_attempts.c.number, _attempts.c.attempt).in_(attempts)
        connection.execute(_attempts.update().where(*mine).values(kind="node"))

    def all(self) -> dict[int, list[Attempt]]:
        """The failed attempts by the number of their trial, in order."""
        names = [field.name for field in fields(Attempt)]
        query = sa.select(_attempts).where(_attempts.c.sweep == self._sweep)
        found: dict[int, list[Attempt]] = {}
        with self._engine.connect() as connection:
            for row in connection.execute(query.order_by(_attempts.c.number, _attempts.c.attempt)).mappings():
                values = {name: row[name] for name in names} | {"ended": datetime.fromtimestamp(row["ended"], UTC)}
                found.setdefault(row["number"], []).append(Attempt(**values))
        return found


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

    def acquire(self) -> None:
        """Take the lease, or raise SweepBusyError naming its holder."""
        seen = holder(self._engine, self._sweep)
        if seen is not None and not seen.is_dead():
            self._wait_for_expiry(seen)
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


def storable(reason: str) -> str:
    """A reason as every database takes it: not too long, without secrets, nor what UTF-8 or PostgreSQL cannot hold."""
    return redact(reason)[:_LONGEST].encode(errors="backslashreplace").decode().replace("\0", "\\0")
