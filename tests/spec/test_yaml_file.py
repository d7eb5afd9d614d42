from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sweeper.core.errors import SpecError
from sweeper.spec.yaml_file import parse_value, read_yaml


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "sweep.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path: str | Path) -> str:
    with pytest.raises(SpecError) as caught:
        read_yaml(path)
    return str(caught.value)


SCALARS = {
    "1e-3": 1e-3,
    "1E5": 1e5,
    "-.5": -0.5,
    "+7": 7,
    "0": 0,
    "3.0": 3.0,
    "1_000": "1_000",
    "0x1F": "0x1F",
    "12:30": "12:30",
    "2026-11-21": "2026-11-21",
    "yes": "yes",
    "no": "no",
    "on": "on",
    "y": "y",
    "true": True,
    "False": False,
    "null": None,
    "~": None,
    "": None,
    ".inf": float("inf"),
    "-.Inf": float("-inf"),
    "'012'": "012",
    '"1"': "1",
    "'true'": "true",
    "|-\n  12": "12",
    "sqlite:///sweeper.db": "sqlite:///sweeper.db",
}


@pytest.mark.parametrize("text", SCALARS)
def test_scalars_are_read_as_in_yaml_1_2(text: str, tmp_path: Path) -> None:
    value = read_yaml(write(tmp_path, f"a: {text}\n"))[0]["a"]

    assert (value, type(value)) == (SCALARS[text], type(SCALARS[text]))


def test_nan_is_read_as_a_number(tmp_path: Path) -> None:
    assert str(read_yaml(write(tmp_path, "a: .nan"))[0]["a"]) == "nan"


def test_positions_are_those_of_keys_and_items(tmp_path: Path) -> None:
    _, places = read_yaml(write(tmp_path, "a: 1\nb:\n  - x\n  - {c: [1, 2], d: {}}\ne: {f: 3}\n"))

    assert places == {
        ("a",): (1, 1),
        ("b",): (2, 1),
        ("b", 0): (3, 5),
        ("b", 1): (4, 5),
        ("b", 1, "c"): (4, 6),
        ("b", 1, "c", 0): (4, 10),
        ("b", 1, "c", 1): (4, 13),
        ("b", 1, "d"): (4, 17),
        ("e",): (5, 1),
        ("e", "f"): (5, 5),
    }


def test_byte_order_mark_and_unicode_are_accepted(tmp_path: Path) -> None:
    assert read_yaml(write(tmp_path, "\ufeff学習率: né\n"))[0] == {"学習率": "né"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "sweep.yaml  is empty"),
        (b"# nothing\n# here\n", "sweep.yaml  is empty"),
        (b"\x89PNG\r\n\x1a\n\0\0", ":3:1  holds a NUL byte"),
        ("a: 1".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        (b"a: 1\nb: caf\xe9\n", ":2:7  is not UTF-8 (byte 0xe9); if it is Latin-1: iconv -f latin1 -t utf-8"),
        (b"a: x\0y\n", ":1:5  holds a NUL byte"),
        (b"a: 1\nb: \x1b[0m", ":2:4  holds a control character (U+001B)"),
        (b"a: " + b"x" * 500_000, "is larger than 0.5 MB"),
        ("a:\n\tb: 1\n", ":2:1  is not YAML: a tab; YAML is indented with spaces"),
        ("a: [1, 2\n", ":2:1  is not YAML: a bracket is not closed"),
        ("a: 'x\n", ":2:1  is not YAML: a quote is not closed"),
        ("a: {b: 1\nc: 2}\n", ":2:2  is not YAML: a bracket is not closed, or a comma is missing"),
        ("a:\n    b: 1\n  c: 2\n", ":3:3  is not YAML: the indentation matches no line above"),
        ("a: b: c\n", ":1:5  is not YAML: a second ':' in one value"),
        ("a: @b\n", ":1:4  is not YAML: no value can start with this character"),
        ("a: 1\n---\nb: 2\n", ":2:1  a second document starts here; one file is one sweep"),
        ("a: 1\nb: 2\na: 3\n", ":3:1  the key 'a' is already in line 1"),
        ("a: {b: 1, b: 2}\n", ":1:11  the key 'b' is already in line 1"),
        ("a: *b\n", ":1:4  *b: anchors and aliases are not supported; repeat the value"),
        ("a: &a [*a]\n", ":1:4  &a: anchors and aliases are not supported"),
        ("a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", ":1:4  &a: anchors"),
        ("a: " + "[" * 3000, "nested deeper than 50 levels"),
        ("a: " + "{a: " * 3000, "nested deeper than 50 levels"),
        ("a: !!python/object/apply:os.system [ls]\n", ":1:4  '!!python/object/apply:os.system': tags"),
        ("a: !mine 1\n", ":1:4  '!mine': tags are not supported"),
        ("a: !!str 1\n", "tags are not supported"),
        ("1: a\n", ":1:1  the key '1' is not text; quote it if it is meant as text"),
        ("true: a\n", ":1:1  the key 'true' is not text"),
        ("null: a\n", ":1:1  the key 'null' is not text"),
        ("[1, 2]: a\n", ":1:1  a list or a mapping cannot be a key"),
        ("a: {<<: {b: 1}}\n", ":1:5  <<: merge keys are not supported"),
        ("a: 012\n", ":1:4  012 looks octal; write 12 if it is a number, '012' if it is text"),
        (f"a: 1{'0' * 400}\n", "is too large a number"),
        ("a: [" + "1," * 30_000 + "}", "more than 20,000 values"),  # is not read to its end
    ],
)
def test_text_that_is_not_plain_yaml_is_refused_with_its_position(
    content: str | bytes, message: str, tmp_path: Path
) -> None:
    assert message in refusal(write(tmp_path, content))


def test_missing_file_is_reported_with_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path, "a: 1")

    assert refusal(tmp_path / "swep.yaml") == f"{tmp_path}/swep.yaml  no such file; the folder holds sweep.yaml"


def test_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a: 1")

    assert "is a folder, not a file; it holds sweep.yaml" in refusal(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a: 1")
    path.chmod(0)

    assert "no permission to read it" in refusal(path)


def test_circle_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")

    assert "cannot be read (Too many levels of symbolic links)" in refusal(tmp_path / "a")


@pytest.mark.timeout(5)
def test_endless_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    assert "is not a regular file" in refusal(tmp_path / "pipe")
    assert "is not a regular file" in refusal("/dev/zero")


def test_standard_input_and_impossible_paths_are_refused() -> None:
    assert "cannot be read from standard input" in refusal("-")
    assert "cannot be read (embedded null byte)" in refusal("a\0b")


def test_single_value_is_read_as_in_a_file() -> None:
    assert [parse_value(text) for text in ("5", "1e-3", "[a, 2]", "null", "", "'5'")] == [
        5,
        1e-3,
        ["a", 2],
        None,
        "",
        "5",
    ]
    with pytest.raises(ValueError, match="a bracket is not closed"):
        parse_value("[1")


def test_two_json_escapes_of_one_character_are_read_as_one(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(json.dumps({"name": "random_state \U0001f3b2"}))
    assert "\\ud83c" in path.read_text()
    assert read_yaml(path)[0] == {"name": "random_state \U0001f3b2"}
