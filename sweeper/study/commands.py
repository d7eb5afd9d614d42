"""What another terminal wants of a running sweep, in the study's database: to stop, to pause, to go on."""

from __future__ import annotations

from typing import Literal

import sqlalchemy as sa

from sweeper.study.tables import tables

Command = Literal["stop", "pause"]


_commands = sa.Table(
    "sweeper_orders",
    tables,
    sa.Column("sweep", sa.String(64), primary_key=True),
    sa.Column("wish", sa.String(16), nullable=False),
    sa.Column("is_followed", sa.Boolean, nullable=False),
)


class Commands:
    """The standing command for one sweep, if there is one; the owner looks at it about once a second."""

    def __init__(self, engine: sa.Engine, sweep: str) -> None:
        self._engine = engine
        self._sweep = sweep
        self._mine = _commands.c.sweep == sweep

    def send(self, command: Command) -> None:
        """Put an command in the place of any other."""
        with self._engine.begin() as connection:
            connection.execute(_commands.delete().where(self._mine))
            connection.execute(_commands.insert().values(sweep=self._sweep, wish=command, is_followed=False))

    def clear(self) -> None:
        with self._engine.begin() as connection:
            connection.execute(_commands.delete().where(self._mine))

    def current(self) -> Command | None:
        return self._read()[0]

    def acknowledge(self) -> Command | None:
        """The current command; who gave it knows from now on that it is followed."""
        command, is_followed = self._read()
        if command is not None and not is_followed:
            with self._engine.begin() as connection:
                connection.execute(
                    _commands.update().where(self._mine, _commands.c.wish == command).values(is_followed=True)
                )
        return command

    def is_acknowledged(self, command: Command) -> bool:
        return self._read() == (command, True)

    def _read(self) -> tuple[Command | None, bool]:
        with self._engine.connect() as connection:
            found = connection.execute(
                sa.select(_commands.c.wish, _commands.c.is_followed).where(self._mine)
            ).one_or_none()
        return (None, False) if found is None else (found.wish, bool(found.is_followed))
