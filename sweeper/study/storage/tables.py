"""Tables that Optuna does not have: every metric of every report, and failed attempts."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence, Set
from contextlib import suppress
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from sweeper.core.errors import InputError, StorageError
from sweeper.core.secrets import redact
from sweeper.core.text import format_list
from sweeper.core.trials import Attempt, Report
from sweeper.study.storage.exchange import write_row

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


_schema = sa.Table(
    "sweeper_schema",
    tables,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
)


LEASES = "sweeper_leases"
"""The table of leases, which `lease.py` defines."""


SWEEP = "sweep"
"""User attribute of the study that holds its sweep, as it was last opened."""


SCHEMA_VERSION = 1
"""Version of these tables. Older versions can be read; a newer one raises StorageError."""


def create_tables(engine: sa.Engine) -> None:
    """Create sweeper's tables where they are missing; several processes may do so at once."""
    try:
        _create_missing(engine)
    except SQLAlchemyError:  # PostgreSQL's IF NOT EXISTS fails while another process creates the same table
        _create_missing(engine)
    if _read_version(engine) is None:
        with suppress(IntegrityError), engine.begin() as connection:  # another process was first
            connection.execute(_schema.insert().values(version=SCHEMA_VERSION))


def _create_missing(engine: sa.Engine) -> None:
    # `MetaData.create_all` checks first and creates later; with several processes that fails again and again.
    with engine.begin() as connection:
        for table in tables.sorted_tables:
            connection.execute(sa.schema.CreateTable(table, if_not_exists=True))


def look_at_tables(engine: sa.Engine) -> Literal["sweeper", "optuna", "none"]:
    """Return whose tables a database has: sweeper's and Optuna's, only Optuna's, or none of them, or not all yet.

    Nothing is written: the database may be another program's, or another version's.

    Raises:
        InputError: it has tables of other programs where those of studies would be.
        StorageError: a newer sweeper has made its tables.
    """
    names = set(sa.inspect(engine).get_table_names())
    revision = _read_revision(engine) if REVISIONS in names else None
    if revision is not None and not re.match(r"v\d", revision):  # MLflow's have no letter v
        whose = "MLflow's database" if {"experiments", "runs"} <= names else "another program's database"
        raise InputError(f"it is {whose}, and a study needs one of its own")
    if _schema.name in names and (found := _read_version(engine) or 0) > SCHEMA_VERSION:
        raise StorageError(
            f"it was written by a newer sweeper (schema {found}; this one knows {SCHEMA_VERSION}): upgrade sweeper"
        )
    if revision is not None and "version_info" in names and _schema.name in names:
        return "sweeper"
    if not names:
        return "none"
    expected, inspector = _expected_columns(with_optuna=revision is None), sa.inspect(engine)
    shared = sorted(names & expected.keys())
    columns = {name: {column["name"] for column in inspector.get_columns(name)} for name in shared}
    if taken := [name for name in shared if columns[name] != expected[name]]:
        raise InputError(f"its tables {format_list(taken)} are another program's, or of a very old Optuna")
    return "none" if revision is None else "optuna"


REVISIONS = "alembic_version"
"""Table in which Optuna, MLflow and many other programs record the version of their tables."""


def _read_revision(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        return connection.execute(sa.text(f"SELECT version_num FROM {REVISIONS}")).scalar()


def _expected_columns(*, with_optuna: bool) -> dict[str, set[str]]:
    """Return the columns of the tables of sweeps, and of Optuna's, by the names of the tables."""
    own = {table.name: {column.name for column in table.columns} for table in tables.sorted_tables}
    if not with_optuna:
        return own
    import optuna

    in_memory = optuna.storages.RDBStorage("sqlite:///:memory:")
    inspector = sa.inspect(in_memory.engine)
    names = set(inspector.get_table_names()) - {REVISIONS}
    found = {name: {column["name"] for column in inspector.get_columns(name)} for name in names}
    in_memory.remove_session()
    in_memory.engine.dispose()
    return own | found


def is_used(connection: sa.Connection, before: Set[str]) -> bool:
    """Return whether a database has a sweep by now, or a study in tables that it did not have before."""
    attributes = sa.table("study_user_attributes", sa.column("key"))
    queries = [attributes.select().where(attributes.c.key == SWEEP), tables.tables[LEASES].select()]
    if "studies" not in before:
        queries.append(sa.table("studies", sa.column("study_id")).select())
    return any(connection.execute(query.limit(1)).first() for query in queries)


def drop_unused_tables(connection: sa.Connection, before: Set[str]) -> bool:
    """Drop the tables of sweeps that a database did not have before; return False if a sweep uses one of them by now.

    Args:
        before: the names of the tables that it had.
    """
    if connection.dialect.name == "postgresql":  # a sweep that starts now waits, and then finds no tables
        connection.execute(sa.text("LOCK TABLE studies IN ACCESS EXCLUSIVE MODE NOWAIT"))
    if is_used(connection, before):
        return False
    added = (_expected_columns(with_optuna=True).keys() | {REVISIONS}) - before
    found = sa.MetaData()
    found.reflect(connection, only=lambda name, _: name in added)
    found.drop_all(connection)
    return True


def delete_rows(sweep: str, connection: sa.Connection) -> None:
    """Delete what these tables hold of a sweep, except the lease, as part of the connection's transaction."""
    present = set(sa.inspect(connection).get_table_names())  # an older sweeper made fewer
    for table in tables.sorted_tables:
        if "sweep" in table.columns and table.name in present - {LEASES}:
            connection.execute(table.delete().where(table.c.sweep == sweep))


def _read_version(engine: sa.Engine) -> int | None:
    with engine.connect() as connection:
        return connection.execute(sa.select(sa.func.max(_schema.c.version))).scalar()


class Reports:
    """The reports of all trials of one sweep; one row for each (trial, step)."""

    def __init__(self, engine: sa.Engine, sweep: str) -> None:
        self._engine = engine
        self._sweep = sweep

    def add(self, number: int, report: Report, connection: sa.Connection) -> None:
        """Write a report as part of the connection's transaction."""
        row = {"sweep": self._sweep, "number": number, "step": report.step, "time": report.time}
        write_row(connection, _reports, {**row, "metrics": json.dumps(report.metrics)})

    def of(self, number: int) -> list[Report]:
        """Read the reports of one trial, in the order of their steps."""
        query = (
            sa.select(_reports.c.step, _reports.c.time, _reports.c.metrics)
            .where(_reports.c.sweep == self._sweep, _reports.c.number == number)
            .order_by(_reports.c.step)
        )
        with self._engine.connect() as connection:
            return [Report(step, when, json.loads(metrics)) for step, when, metrics in connection.execute(query)]

    def all(self) -> dict[int, list[Report]]:
        """Read the reports of all trials, by the number of the trial and in the order of their steps."""
        query = (
            sa.select(_reports.c.number, _reports.c.step, _reports.c.time, _reports.c.metrics)
            .where(_reports.c.sweep == self._sweep)
            .order_by(_reports.c.number, _reports.c.step)
        )
        found: dict[int, list[Report]] = {}
        with self._engine.connect() as connection:
            for number, step, when, metrics in connection.execute(query):
                found.setdefault(number, []).append(Report(step, when, json.loads(metrics)))
        return found


MAX_REASON_CHARS = 1000
"""Longest reason that is stored, in characters; the rest is cut."""


class Attempts:
    """The failed attempts of all trials of one sweep; one row for each (trial, attempt)."""

    def __init__(self, engine: sa.Engine, sweep: str) -> None:
        self._engine = engine
        self._sweep = sweep

    def add(self, number: int, attempt: Attempt, connection: sa.Connection) -> None:
        """Write an attempt as part of the connection's transaction."""
        row = {**asdict(attempt), "ended": attempt.ended.timestamp()}
        connection.execute(_attempts.insert(), {"sweep": self._sweep, "number": number, **row})

    def blame_node(self, attempts: Sequence[tuple[int, int]], connection: sa.Connection) -> None:
        """Mark failed attempts as caused by their node, so that they no longer count against their trials."""
        blamed = _attempts.c.sweep == self._sweep, sa.tuple_(_attempts.c.number, _attempts.c.attempt).in_(attempts)
        connection.execute(_attempts.update().where(*blamed).values(kind="node"))

    def all(self, number: int | None = None) -> dict[int, list[Attempt]]:
        """Read the failed attempts of all trials, or of one, by the number of the trial and in order."""
        names = [field.name for field in fields(Attempt)]
        query = sa.select(_attempts).where(_attempts.c.sweep == self._sweep)
        query = query if number is None else query.where(_attempts.c.number == number)
        found: dict[int, list[Attempt]] = {}
        with self._engine.connect() as connection:
            for row in connection.execute(query.order_by(_attempts.c.number, _attempts.c.attempt)).mappings():
                values = {name: row[name] for name in names} | {"ended": datetime.fromtimestamp(row["ended"], UTC)}
                found.setdefault(row["number"], []).append(Attempt(**values))
        return found


def storable(reason: str) -> str:
    """Return a reason that every database can store: cut, secrets redacted, lone surrogates and NUL escaped."""
    return redact(reason)[:MAX_REASON_CHARS].encode(errors="backslashreplace").decode().replace("\0", "\\0")
