"""Learning curves drawn with characters, by plotext."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from sweeper.cli import console
from sweeper.core.text import clean, number

if TYPE_CHECKING:
    from sweeper.analysis.curves import Curve

COLORS = ("cyan+", "orange+", "green+", "magenta+", "red+", "blue+")
"""Colours of the curves that stand out, in the words of plotext; with more curves they are used again."""

MARKERS = "*ox+#@"
"""Characters of the curves that stand out where there are no colours."""

_OTHERS, _OTHERS_COLOR = ".", "gray"
_MIN_WIDTH, _MIN_HEIGHT, _MAX_TICKS = 20, 6, 8

_FRAME = str.maketrans("┌┐└┘├┤┬┴┼─│", "+++++++++-|")
"""The frame in ASCII, for a terminal or a file that is limited to it."""


def draw_curves(
    curves: Sequence[Curve],
    *,
    highlight: Collection[int],
    width: int,
    height: int,
    title: str,
    unit: str,
    names: Mapping[int, str] | None = None,
    is_plain: bool | None = None,
) -> str:
    """Draw learning curves over each other, and name those that stand out below.

    Args:
        highlight: numbers of the trials whose curves stand out; the others are dim.
        width, height: of the drawing in characters; names come below, mostly in one line.
        unit: of the x axis: epochs or steps.
        names: what the curves that stand out are called, by their numbers; by default trials.
        is_plain: whether to use no colours and no Braille; by default if stdout is no terminal or NO_COLOR is set.

    Returns:
        Lines without a line end after the last; one sentence if no curve has a point.
    """
    drawn = [curve for curve in curves if curve.values]
    if not drawn:
        return f"{clean(title)}: there is nothing to draw yet, as no trial has reported."
    is_ascii = not _can_encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    if is_plain is None:
        is_plain = is_ascii or not console.out.is_terminal or console.out.no_color
    front = [curve for curve in drawn if curve.number in highlight]
    back = [curve for curve in drawn if curve.number not in highlight]
    looks = [(MARKERS[index % len(MARKERS)], COLORS[index % len(COLORS)]) for index in range(len(front))]
    layers = [(curve, _OTHERS, _OTHERS_COLOR) for curve in back]
    layers += [(curve, *look) for curve, look in zip(front, looks, strict=True)][::-1]  # the first on top
    text = _figure(layers, width=width, height=height, title=clean(title), unit=unit, is_plain=is_plain)
    called = [clean((names or {}).get(curve.number, f"trial {curve.number} ({curve.state})")) for curve in front]
    legend = _legend(list(zip(called, looks, strict=True)), len(back), width=width, is_plain=is_plain)
    return f"{text}\n{legend}".translate(_FRAME if is_ascii else {})


def _figure(
    layers: Sequence[tuple[Curve, str, str]], *, width: int, height: int, title: str, unit: str, is_plain: bool
) -> str:
    import plotext  # its figure is a global one

    plotext.clear_figure()
    plotext.limit_size(False, False)
    plotext.plot_size(max(width, _MIN_WIDTH), max(height, _MIN_HEIGHT))
    plotext.theme("clear")
    for curve, character, color in layers:
        marker = character if is_plain else "braille"
        plotext.plot(list(curve.epochs), list(curve.values), marker=marker, color=None if is_plain else color)
    last = max(curve.epochs[-1] for curve, _, _ in layers)
    ticks = _ticks(last)
    plotext.xlim(0, last)
    plotext.xticks(ticks, [number(tick) for tick in ticks])
    plotext.title(title)
    plotext.xlabel(unit)
    text = plotext.build()
    plotext.clear_figure()
    return "\n".join(line.rstrip() for line in (plotext.uncolorize(text) if is_plain else text).splitlines())


def _ticks(last: float) -> list[float]:
    """Return round places from 0 to the end of an axis, at most `_MAX_TICKS`."""
    step = 10.0 ** math.floor(math.log10(last / _MAX_TICKS)) if last > 0 else 1.0
    step = next(step * factor for factor in (1, 2, 5, 10) if last / (step * factor) < _MAX_TICKS)
    return [index * step for index in range(int(last / step + 1e-9) + 1)]


def _legend(front: Sequence[tuple[str, tuple[str, str]]], others: int, *, width: int, is_plain: bool) -> str:
    """Name the curves that stand out, and count the others, in as many lines as the width needs."""
    import plotext

    named = [(name, *look) for name, look in front]
    if others:
        named.append((f"{others} other{'s' if others > 1 else ''}", _OTHERS, _OTHERS_COLOR))
    text, used = "", 0
    for name, character, color in named:
        length = len(name) + (2 if is_plain else 3)
        gap = "" if not used else "  " if used + 2 + length <= width else "\n"
        used = length + (used + 2 if gap == "  " else 0)
        text += f"{gap}{character if is_plain else plotext.colorize('━━', color)} {name}"
    return text


def _can_encode(encoding: str) -> bool:
    try:
        "┌─│".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
