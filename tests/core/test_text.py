from __future__ import annotations

import pytest
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
