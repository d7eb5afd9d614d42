"""Text for people: values, lists and suggestions in messages, the first line of an error, YAML."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from io import StringIO
from typing import Any

from sweeper.core.secrets import redact

YAML_WIDTH = 4096
"""Characters of a line of YAML before it is folded: folded text is hard to read and to search."""


def format_value(value: object) -> str:
    """Return a value for a message: as YAML writes it, at most 60 characters, safe to print, its secrets masked."""
    plain = repr(redact(value) if isinstance(value, str) else value)
    text = {"None": "null", "True": "true", "False": "false"}.get(plain) or redact(plain)
    return text if len(text) <= 60 else text[:57] + "..."


def format_list(texts: Sequence[str], *, nothing: str = "nothing") -> str:
    """Return texts for a message: the first 20, and how many more there are."""
    more = f" and {len(texts) - 20:,} more" if len(texts) > 20 else ""
    return f"{', '.join(texts[:20])}{more}" or nothing


def did_you_mean(name: object, known: Iterable[str], *, otherwise: str = "Known") -> str:
    """Return `Did you mean 'units'?`, or a list of the known names if none is similar."""
    text, names = str(name), list(known)
    near = [known for known in names if len(text) > 1 and known.startswith(text)]
    if not near and len(names) <= 200 and len(text) <= 100:  # comparing more takes too long
        near = difflib.get_close_matches(text, names)
    return f"Did you mean {format_value(near[0])}?" if near else f"{otherwise}: {format_list(names)}."


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, its secrets masked; the name of its class if it has no message.

    SQLAlchemy wraps a driver's error and adds lines about the statement; the driver's own error is used instead.
    """
    cause = getattr(error, "orig", None) or error
    return next(iter(redact(cause).strip().splitlines()), type(cause).__name__)


def to_yaml(value: Any, *, ascii_only: bool = False) -> str:
    """Return plain data as a YAML document, its keys in their order, its lines not folded."""
    from ruamel.yaml import YAML

    text, yaml = StringIO(), YAML()
    yaml.width, yaml.allow_unicode = YAML_WIDTH, not ascii_only
    yaml.dump(value, text)
    return text.getvalue()
