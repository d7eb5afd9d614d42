"""What another terminal wants of a running sweep, in the study's database: to stop, to pause, to go on."""

from __future__ import annotations

from typing import Literal

import sqlalchemy as sa

from sweeper.study.tables import tables

Order = Literal["stop", "pause"]


_orders = sa.Table(
    "sweeper_orders",
    tables,
    sa.Column("sweep", sa.String(64), primary_key=True),
    sa.Column("wish", sa.String(16), nullable=False),
    sa.Column("is_followed", sa.Boolean, nullable=False),
)


class Orders:
    """The standing order for one sweep, if there is one; the owner looks at it about once a second."""

    def __init__(self, engine: sa.Engine, sweep: str) -> None:
        self._engine = engine
        self._sweep = sweep
        self._mine = _orders.c.sweep == sweep

    def give(self, order: Order) -> None:
        """Put an order in the place of any other."""
        with self._engine.begin() as connection:
            connection.execute(_orders.delete().where(self._mine))
            connection.execute(_orders.insert().values(sweep=self._sweep, wish=order, is_followed=False))

    def withdraw(self) -> None:
        with self._engine.begin() as connection:
            connection.execute(_orders.delete().where(self._mine))

    def current(self) -> Order | None:
        return self._look()[0]

    def obey(self) -> Order | None:
        """The current order; who gave it knows from now on that it is followed."""
        order, is_followed = self._look()
        if order is not None and not is_followed:
            with self._engine.begin() as connection:
                connection.execute(_orders.update().where(self._mine, _orders.c.wish == order).values(is_followed=True))
        return order

    def is_followed(self, order: Order) -> bool:
        return self._look() == (order, True)

    def _look(self) -> tuple[Order | None, bool]:
        with self._engine.connect() as connection:
            found = connection.execute(sa.select(_orders.c.wish, _orders.c.is_followed).where(self._mine)).one_or_none()
        return (None, False) if found is None else (found.wish, bool(found.is_followed))
