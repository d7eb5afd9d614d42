from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from sqlalchemy.exc import OperationalError

from sweeper.core.text import clean, duration, first_line, scalar, shorten, span, tally, to_yaml


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  one\n"), "one"),
        (TimeoutError(), "TimeoutError"),
        (ValueError("\n"), "ValueError"),
        (OperationalError("SELECT 1", {}, OSError("disk I/O error\nat 3")), "disk I/O error"),
        (OperationalError("SELECT 1", {}, TimeoutError()), "TimeoutError"),
    ],
)
def test_first_line_of_an_error_is_never_empty(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_yaml_keeps_order_and_long_lines() -> None:
    value = {"name": "word " * 200, "b": [1, 2.5, None, True], "a": {"nested": "yes: no"}}
    text = to_yaml(value)
    assert YAML(typ="safe").load(text) == value
    assert [line.partition(":")[0] for line in text.splitlines() if line[0].isalpha()] == ["name", "b", "a"]
    assert "word word" in text.splitlines()[0] and len(text.splitlines()[0]) > 1000


@pytest.mark.parametrize(
    "value", ["on", "1e-3", "null", "a: b", "# x", "\x1b]0;x\x07", "größe", "", "012", "- x", "a\nb"]
)
def test_text_in_yaml_is_read_back_as_the_same_text(value: str) -> None:
    text = to_yaml({"name": value}, ascii_only=True)
    assert YAML(typ="safe").load(text) == {"name": value}
    assert text.isascii() and "\x1b" not in text


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.booleans() | st.none())
def test_numbers_in_yaml_are_read_back_exactly(value: object) -> None:
    read = YAML(typ="safe").load(to_yaml({"x": value}))["x"]
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain größe 層 [red]", "plain größe 層 [red]"),
        ("\x1b]0;x\x07", r"\x1b]0;x\x07"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x9b2J", r"\x9b2J"),
        ("safe\u202eexe", r"safe\u202eexe"),
        ("\ud800", r"\ud800"),
        ("\x7f\u2028", r"\x7f\u2028"),
    ],
)
def test_characters_that_control_a_terminal_are_escaped(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@given(st.text())
def test_cleaned_text_is_one_line_that_can_be_encoded(text: str) -> None:
    cleaned = clean(text)
    assert len(cleaned.splitlines()) <= 1
    cleaned.encode()
    assert "\x1b" not in cleaned


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0.2s"),
        (0, "0s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (60, "1m00s"),
        (192, "3m12s"),
        (7500, "2h05m"),
        (97200, "1d03h"),
        (None, ""),
    ],
)
def test_durations_take_two_units_at_most(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (128, "128"), (1e-05, "1e-05"), (0.00123456, "0.001235"), (None, "null"), ("a\x1b", r"a\x1b")],
)
def test_parameters_are_short_and_written_as_in_yaml(value: object, text: str) -> None:
    assert scalar(value) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (3, 8, "less than 10 s"),
        (0, 0, "less than 10 s"),
        (22, 48, "20 to 50 s"),
        (28, 32, "30 s"),
        (10, 100, "less than 2 min"),
        (110, 250, "2 to 4 min"),
        (170, 190, "3 min"),
        (3000, 9500, "1 to 3 h"),
        (86400, 259200, "1 to 3 d"),
    ],
)
def test_ranges_of_time_are_round_and_in_one_unit(low: float, high: float, text: str) -> None:
    assert span(low, high) == text


def test_states_are_counted_in_words() -> None:
    assert tally({"COMPLETE": 12, "INTERRUPTED": 2, "FAIL": 1}) == "2 interrupted, 12 complete, 1 failed"
    assert tally({}) == "no trials"


def test_long_text_ends_in_an_ellipsis() -> None:
    assert shorten("a" * 30) == "a" * 23 + "…"
    assert shorten("abc", 3) == "abc" and shorten("abc", 0) == "…"
