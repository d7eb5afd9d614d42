"""Commands to a running sweep (stop, pause, unpause), kept in the study's database."""

from __future__ import annotations

from typing import Literal

import sqlalchemy as sa

from sweeper.study.storage.tables import tables

Command = Literal["stop", "pause"]


_commands = sa.Table(
    "sweeper_orders",
    tables,
    sa.Column("sweep", sa.String(64), primary_key=True),
    sa.Column("wish", sa.String(16), nullable=False),
    sa.Column("is_followed", sa.Boolean, nullable=False),
)


class Commands:
    """The current command to one sweep, if there is one. The owner polls it about once a second."""

    def __init__(self, engine: sa.Engine, sweep: str) -> None:
        self._engine = engine
        self._sweep = sweep
        self._own_row = _commands.c.sweep == sweep

    def send(self, command: Command) -> None:
        """Send a command; it replaces an earlier one."""
        with self._engine.begin() as connection:
            connection.execute(_commands.delete().where(self._own_row))
            connection.execute(_commands.insert().values(sweep=self._sweep, wish=command, is_followed=False))

    def clear(self) -> None:
        """Withdraw the current command; a paused sweep then continues."""
        with self._engine.begin() as connection:
            connection.execute(_commands.delete().where(self._own_row))

    def current(self) -> Command | None:
        """Return the current command, None if there is none."""
        return self._read()[0]

    def acknowledge(self) -> Command | None:
        """Return the current command, and let its sender know that the owner follows it."""
        command, is_followed = self._read()
        if command is not None and not is_followed:
            with self._engine.begin() as connection:
                connection.execute(
                    _commands.update().where(self._own_row, _commands.c.wish == command).values(is_followed=True)
                )
        return command

    def is_acknowledged(self, command: Command) -> bool:
        """Return whether this is the current command and the owner follows it."""
        return self._read() == (command, True)

    def _read(self) -> tuple[Command | None, bool]:
        with self._engine.connect() as connection:
            found = connection.execute(
                sa.select(_commands.c.wish, _commands.c.is_followed).where(self._own_row)
            ).one_or_none()
        return (None, False) if found is None else (found.wish, bool(found.is_followed))
