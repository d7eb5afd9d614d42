"""The parts of the page, as plain values: sections of text, figures, pictures and tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_TABLE_ROWS = 200
"""Rows of a table; a page with more of them opens slowly, and the terminal has the rest."""


@dataclass(frozen=True)
class Table:
    """A table of texts; `note` says what it leaves out."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    @classmethod
    def of(
        cls, head: Sequence[str], items: Sequence[Any], more: str = "", *, make: Callable[[Any], Sequence[str]] = tuple
    ) -> Table:
        """Make a table with a row for each of the first items; `more` says where the others are."""
        hidden = len(items) - MAX_TABLE_ROWS
        note = f"{hidden:,} more rows are left out here. {more}".strip() if hidden > 0 else ""
        return cls(tuple(head), tuple(tuple(make(item)) for item in items[:MAX_TABLE_ROWS]), note)


@dataclass(frozen=True)
class Figure:
    """A figure of plotly: its data and layout as JSON that may stand in a script tag, and what it shows in words."""

    name: str
    json: str
    alt: str
    height: int
    is_narrow: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        figure: Any,
        alt: str,
        *,
        height: int = 420,
        is_narrow: bool = False,
        shown: tuple[float, float] | None = None,
    ) -> Figure:
        """Make a part of the page from a `plotly.graph_objects.Figure`; the page has its own title and colours.

        Args:
            shown: the range of the values' axis at first; by default all values.
        """
        if shown is not None:
            figure.update_yaxes(range=shown)
        figure.update_layout(title=None, template="none", height=height, width=None)
        return cls(name, figure.to_json().replace("<", "\\u003c"), alt, height, is_narrow)


@dataclass(frozen=True)
class Picture:
    """A PNG in base64, what it shows, and its caption."""

    data: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes:
        texts: paragraphs above the figures.
        missing: why the section has no figure, and what to do.
        warning: what to be careful about.
        facts: pairs of a term and a text.
        code: a text to be shown as it is, and copied.
    """

    name: str
    title: str
    texts: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    pictures: tuple[Picture, ...] = ()
    table: Table | None = None
    table_title: str = "The figure as a table"
    missing: str = ""
    warning: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    code: str = ""
    parts: tuple[Section, ...] = field(default=())
