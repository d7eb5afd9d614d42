"""Text for messages: values, lists, suggestions, the first line of an error."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def format_value(value: object) -> str:
    """A value for a message: as YAML has it, cut to 60 characters, safe to print on a terminal."""
    text = {"None": "null", "True": "true", "False": "false"}.get(repr(value)) or repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def format_list(texts: Sequence[str]) -> str:
    """Texts for a message, the first 20 of them."""
    more = f" and {len(texts) - 20:,} more" if len(texts) > 20 else ""
    return f"{', '.join(texts[:20])}{more}" or "nothing"


def did_you_mean(name: object, known: Iterable[str], *, otherwise: str = "Known") -> str:
    """`Did you mean 'units'?`, or what is known when nothing is near."""
    text, names = str(name), list(known)
    near = [known for known in names if len(text) > 1 and known.startswith(text)]
    if not near and len(names) <= 200 and len(text) <= 100:  # more would take longer than anybody waits
        near = difflib.get_close_matches(text, names)
    return f"Did you mean {format_value(near[0])}?" if near else f"{otherwise}: {format_list(names)}."


def first_line(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]
