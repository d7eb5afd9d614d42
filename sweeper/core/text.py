"""Text for people: values, numbers, durations, lists and suggestions, the first line of an error, YAML."""

from __future__ import annotations

import difflib
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
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


def clean(text: object) -> str:
    """Escape control and invisible characters, as in `\\x1b`, so that the text cannot control a terminal."""
    return "".join(char if _is_plain(char) else _escaped(char) for char in str(text))


def _is_plain(char: str) -> bool:
    # Cc: escape sequences. Cf: text that runs backwards. Cs: what no terminal can encode. Zl, Zp: line ends.
    return char.isascii() and char.isprintable() or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escaped(char: str) -> str:
    return char.encode("ascii", "backslashreplace").decode() if ord(char) > 127 else repr(char)[1:-1]


def shorten(text: str, length: int = 24) -> str:
    """Cut a text to a length; the last character is then an ellipsis."""
    return text if len(text) <= length else text[: max(0, length - 1)] + "…"


def number(value: float | None, digits: int = 4) -> str:
    """Format a metric or parameter in few characters: 0.9871, 3.2e-05, 128."""
    if value is None:
        return ""
    if isinstance(value, int) or not math.isfinite(value):
        return str(value)
    return f"{value:.{digits}g}"


def metric(value: float | None) -> str:
    """Format the value of an objective, with the same number of decimals in every row."""
    if value is None:
        return ""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.3e}"


def scalar(value: object) -> str:
    """Format the value of a parameter for people."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return number(value)
    return "null" if value is None else clean(value)


def duration(seconds: float | None) -> str:
    """Format seconds in at most two units: 45s, 3m12s, 2h05m, 1d03h; a float below ten as 0.4s."""
    if seconds is None:
        return ""
    if isinstance(seconds, float) and 0 < seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(max(0.0, seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days}d{hours % 24:02d}h"
    if hours:
        return f"{hours}h{minutes % 60:02d}m"
    return f"{minutes}m{whole % 60:02d}s" if minutes else f"{whole}s"


_SPANS = ((90, 10, "s"), (90 * 60, 60, "min"), (36 * 3600, 3600, "h"), (math.inf, 86400, "d"))
"""Most seconds that are given in a unit, the seconds of its smallest step, its name."""


NARROW = 1.3
"""Ratio of the ends of a range that is given as one number."""


def span(low: float, high: float) -> str:
    """Format a range of seconds in one unit and round numbers: 20 to 50 s, 2 to 4 min, less than 10 s.

    A narrow range is one number: 3 min.
    """
    if high <= NARROW * low:
        low = high = (low + high) / 2
    step, unit = next((step, unit) for most, step, unit in _SPANS if high < most)
    each = step if unit == "s" else 1
    first, last = math.floor(low / step + 0.5) * each, max(1, math.ceil(high / step - 0.5)) * each
    if first >= last:
        return f"{last} {unit}"
    return f"{first} to {last} {unit}" if first else f"less than {last} {unit}"


_STATES = {
    "RUNNING": "running",
    "INTERRUPTED": "interrupted",
    "COMPLETE": "complete",
    "PAUSED": "paused",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "WAITING": "waiting",
}


def tally(counts: Mapping[str, int]) -> str:
    """Format the number of trials in each state: 12 complete, 11 pruned, 1 failed."""
    return ", ".join(f"{counts[state]} {word}" for state, word in _STATES.items() if counts.get(state)) or "no trials"
