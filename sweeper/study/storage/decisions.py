"""The table of what pruners compared: one row for each report that a pruner judged by a comparison."""

from __future__ import annotations

import json
from dataclasses import fields

import sqlalchemy as sa

from sweeper.core.trials import Decision
from sweeper.study.storage.exchange import write_row
from sweeper.study.storage.tables import tables

_decisions = sa.Table(
    "sweeper_decisions",
    tables,
    sa.Column("sweep", sa.String(64), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("step", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("decision", sa.Text, nullable=False),
)


_NAMES = {field.name for field in fields(Decision)} - {"step"}


class Decisions:
    """The decisions of the pruner about all trials of one sweep; one row for each (trial, step)."""

    def __init__(self, engine: sa.Engine, sweep: str) -> None:
        self._engine = engine
        self._sweep = sweep

    def add(self, number: int, decision: Decision, connection: sa.Connection) -> None:
        """Write a decision as part of the connection's transaction."""
        seen = {name: value for name, value in vars(decision).items() if name in _NAMES and value is not None}
        row = {"sweep": self._sweep, "number": number, "step": decision.step, "decision": json.dumps(seen)}
        write_row(connection, _decisions, row)

    def all(self) -> dict[int, list[Decision]]:
        """Read the decisions about all trials, by the number of the trial and in the order of their steps.

        A database that no owner has opened since the table was introduced has none.
        """
        if not sa.inspect(self._engine).has_table(_decisions.name):
            return {}
        query = (
            sa.select(_decisions.c.number, _decisions.c.step, _decisions.c.decision)
            .where(_decisions.c.sweep == self._sweep)
            .order_by(_decisions.c.number, _decisions.c.step)
        )
        found: dict[int, list[Decision]] = {}
        with self._engine.connect() as connection:
            for number, step, decision in connection.execute(query):
                seen = {name: value for name, value in json.loads(decision).items() if name in _NAMES}
                found.setdefault(number, []).append(Decision(step, **seen))
        return found
