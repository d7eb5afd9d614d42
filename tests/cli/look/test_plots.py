from __future__ import annotations

import io
import re
import sys

import pytest

from sweeper.analysis.curves import Curve
from sweeper.cli.look.plots import MARKERS, draw_curves

CURVES = [
    Curve(7, "PRUNED", (0.5, 1.0), (0.2, 0.3)),
    Curve(3, "COMPLETE", (0.5, 1.0, 1.5, 2.0), (0.2, 0.5, 0.7, 0.8)),
    Curve(4, "COMPLETE", (0.5, 1.0, 1.5, 2.0), (0.1, 0.2, 0.3, 0.4)),
    Curve(5, "RUNNING", (), ()),
]
SIZE = {"width": 60, "height": 12, "title": "score", "unit": "epochs"}


def test_drawing_without_colours_tells_curves_apart_by_their_characters() -> None:
    text = draw_curves(CURVES, highlight={7, 3}, **SIZE)
    assert "\x1b" not in text
    lines = text.splitlines()
    assert len(lines) == 13 and max(map(len, lines)) <= 60
    assert lines[-1] == f"{MARKERS[0]} trial 7 (PRUNED)  {MARKERS[1]} trial 3 (COMPLETE)  . 1 other"
    assert all(any(marker in line for line in lines[:-2]) for marker in (*MARKERS[:2], "."))
    assert "score" in lines[0] and "epochs" in lines[-2]


def test_names_are_broken_into_lines_that_fit() -> None:
    many = [Curve(number, "COMPLETE", (1.0, 2.0), (0.1, number / 10)) for number in range(9)]
    for is_plain in (True, False):
        lines = draw_curves(many, highlight=range(9), is_plain=is_plain, **SIZE).splitlines()
        names = [re.sub("\x1b[^m]*m", "", line) for line in lines[12:]]
        assert len(names) >= 3 and max(map(len, names)) <= 60
        assert sum(line.count("trial ") for line in names) == 9


def test_drawing_in_colour_uses_braille_and_escapes() -> None:
    text = draw_curves(CURVES, highlight={7, 3}, is_plain=False, **SIZE)
    assert "\x1b[" in text and any("\u2800" <= char <= "\u28ff" for char in text)


@pytest.mark.parametrize("curve", [Curve(0, "RUNNING", (1.0,), (0.5,)), Curve(0, "RUNNING", (1.0, 2.0), (0.0, 0.0))])
def test_single_point_and_flat_curve_can_be_drawn(curve: Curve) -> None:
    assert MARKERS[0] in draw_curves([curve], highlight={0}, **SIZE)


def test_nothing_to_draw_is_a_sentence() -> None:
    assert draw_curves(CURVES[-1:], highlight=(), **SIZE) == (
        "score: there is nothing to draw yet, as no trial has reported."
    )


def test_drawing_for_an_ascii_stream_is_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert draw_curves(CURVES, highlight={7}, **SIZE).isascii()
