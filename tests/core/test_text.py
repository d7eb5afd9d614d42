from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from sqlalchemy.exc import OperationalError

from sweeper.core.text import first_line, to_yaml


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
