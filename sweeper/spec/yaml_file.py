"""Reader of YAML 1.2 written by people: plain data only, with the position of every key and list item."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, events
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from sweeper.core.errors import LocatedProblem, SpecError
from sweeper.core.schema import Key
from sweeper.core.text import format_value

Position = tuple[int, int]
"""Line and column, both from 1."""


Positions = dict[Key, Position]
MAX_BYTES = 500_000
MAX_DEPTH = 50
MAX_VALUES = 20_000

_WORDS: dict[str, object] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class _Refused(Exception):
    """A text that is not one document of plain data."""

    def __init__(self, message: str, position: Position | None = None) -> None:
        self.message = message
        self.position = position


def read_yaml(path: str | Path) -> tuple[Any, Positions]:
    """Return the data of a YAML file, and the position of each key and list item.

    Raises:
        SpecError: the file cannot be read, or is not one document of plain data.
    """
    try:
        return _parse(_decode(_read(Path(path))))
    except _Refused as refused:
        line, column = refused.position or (None, None)
        raise SpecError(str(path), [LocatedProblem("", refused.message, line, column)]) from refused


def parse_value(text: str) -> Any:
    """Parse text as a value of a sweep file: `5`, `1e-3`, `[64, 128]`.

    Raises:
        ValueError: a sweep file could not have this value.
    """
    try:
        return _parse(text)[0] if text.strip() else ""
    except _Refused as refused:
        raise ValueError(refused.message) from refused


def _read(path: Path) -> bytes:
    if str(path) == "-":
        raise _Refused("a sweep cannot be read from standard input; save it to a file, so that it can be run again")
    try:
        # Without O_NONBLOCK, opening a FIFO waits until another process writes to it.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise _Refused(_cannot_read(path, error)) from error
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            inside = _sweeps_in(path)
            raise _Refused("is a folder, not a file" + (f"; it holds {inside}" if inside else ""))
        if not stat.S_ISREG(mode):
            raise _Refused("is not a regular file (a pipe, a socket or a device); save the sweep to a file")
        with os.fdopen(handle, "rb", closefd=False) as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _Refused(_cannot_read(path, error)) from error
    finally:
        os.close(handle)
    if len(data) > MAX_BYTES:
        raise _Refused("is larger than 0.5 MB; is it a sweep?")
    return data


def _cannot_read(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        near = _sweeps_in(path.parent)
        return "no such file" + (f"; the folder holds {near}" if near else "")
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return f"cannot be read ({getattr(error, 'strerror', None) or error})"


def _sweeps_in(folder: Path) -> str:
    try:
        return ", ".join(sorted(name for name in os.listdir(folder) if name.endswith((".yaml", ".yml")))[:8])
    except OSError:
        return ""


def _decode(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _Refused("is UTF-16; save it as UTF-8")
    if b"\0" in data:
        raise _Refused("holds a NUL byte: is it a binary file, or UTF-16?", _position_after(data[: data.index(b"\0")]))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"is not UTF-8 (byte 0x{data[error.start]:02x}); if it is Latin-1: iconv -f latin1 -t utf-8"
        raise _Refused(message, _position_after(data[: error.start])) from error


def _position_after(data: bytes) -> Position:
    return data.count(b"\n") + 1, len(data.rpartition(b"\n")[2].decode("utf-8-sig", "replace")) + 1


def _parse(text: str) -> tuple[Any, Positions]:
    try:
        return _DocumentReader(YAML(typ="safe", pure=True).parse(text)).read()
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _Refused(_describe_yaml_error(error), _position(mark) if mark else None) from error
    except ReaderError as error:
        position = _position_after(text[: error.position].encode("utf-8", "replace"))
        raise _Refused(f"holds a control character (U+{ord(text[error.position]):04X})", position) from error
    except (YAMLError, ValueError) as error:
        raise _Refused(f"is not YAML: {error}") from error


def _position(mark: Any) -> Position:
    return mark.line + 1, mark.column + 1


_EXPLANATIONS = {
    "cannot start any token": "no value can start with this character",
    "'\\t'": "a tab; YAML is indented with spaces",
    "expected <block end>": "the indentation matches no line above (or a bracket or a quote is missing)",
    "mapping values are not allowed": "a second ':' in one value; quote the text, or start a new line",
    "expected ',' or": "a bracket is not closed, or a comma is missing",
    "unexpected end of stream": "a quote is not closed",
    "could not find expected ':'": "a key without ': ' and a value (or a wrong indentation)",
}


def _describe_yaml_error(error: MarkedYAMLError) -> str:
    seen = str(error.problem or error.context)
    reasons = [reason for part, reason in _EXPLANATIONS.items() if part in seen]
    return f"is not YAML: {reasons[-1]} [{seen}]" if reasons else f"is not YAML: {seen}"


class _DocumentReader:
    """Reads the parse events of one document of plain data.

    `YAML.compose` also gives positions. But it takes 1.7 times as long as the events alone, reads the 250,000 values
    that fit into MAX_BYTES before any of them can be checked, and its nodes do not tell `!!int 1` from `1`.
    """

    def __init__(self, stream: Iterator[events.Event]) -> None:
        self._events = stream
        self._values = 0
        self._positions: Positions = {}

    def read(self) -> tuple[Any, Positions]:
        documents: list[Any] = []
        for event in self._events:
            if isinstance(event, events.DocumentStartEvent) and documents:
                raise _Refused("a second document starts here; one file is one sweep", _position(event.start_mark))
            if isinstance(event, events.NodeEvent):
                documents.append(self._value(event, ()))
        if not documents:
            raise _Refused("is empty; the shortest sweep has name, budget and space")
        return documents[0], self._positions

    def _value(self, event: Any, key: Key) -> Any:
        """Return the value that starts with an event, and record the positions inside it."""
        position = self._check(event)
        if isinstance(event, events.ScalarEvent):
            return _resolve(event)
        if len(key) >= MAX_DEPTH:
            raise _Refused(f"nested deeper than {MAX_DEPTH} levels", position)
        if isinstance(event, events.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(event := next(self._events), events.SequenceEndEvent):
                self._positions[(*key, len(items))] = _position(event.start_mark)
                items.append(self._value(event, (*key, len(items))))
            return items
        mapping: dict[str, Any] = {}
        while not isinstance(event := next(self._events), events.MappingEndEvent):
            name, position = self._name(event), _position(event.start_mark)
            if name in mapping:
                line, _ = self._positions[(*key, name)]
                raise _Refused(f"the key {format_value(name)} is already in line {line}; give each key once", position)
            self._positions[(*key, name)] = position
            mapping[name] = self._value(next(self._events), (*key, name))
        return mapping

    def _name(self, event: Any) -> str:
        """Return the key of a mapping."""
        position = self._check(event)
        if not isinstance(event, events.ScalarEvent):
            raise _Refused("a list or a mapping cannot be a key; keys are text", position)
        name = _resolve(event)
        if not isinstance(name, str):
            raise _Refused(
                f"the key {format_value(event.value)} is not text; quote it if it is meant as text", position
            )
        if name == "<<":
            raise _Refused("<<: merge keys are not supported; repeat the keys", position)
        return name

    def _check(self, event: Any) -> Position:
        """Refuse what plain data does not have; return the position of the event."""
        position = _position(event.start_mark)
        self._values += 1
        if self._values > MAX_VALUES:
            raise _Refused(f"more than {MAX_VALUES:,} values; is it a sweep?", position)
        if isinstance(event, events.AliasEvent) or event.anchor is not None:
            sign = "*" if isinstance(event, events.AliasEvent) else "&"
            name = f"{sign}{str(event.anchor)[:60]}"
            raise _Refused(f"{name}: anchors and aliases are not supported; repeat the value", position)
        if event.ctag is not None:  # the text of a long tag takes ruamel seconds
            written = format_value(f"{event.ctag.handle or ''}{event.ctag.suffix}")
            raise _Refused(f"{written}: tags are not supported; write plain values", position)
        return position


_SURROGATES = re.compile("[\ud800-\udbff][\udc00-\udfff]")
"""A character beyond 16 bits as JSON escapes it. JSON is YAML too, but ruamel reads the two escapes one by one."""


def _resolve(event: events.ScalarEvent) -> object:
    """Resolve a scalar as YAML 1.2 does, and refuse numbers that YAML 1.1 reads otherwise."""
    position = _position(event.start_mark)
    text = _text(event.value, position)
    is_quoted = not event.implicit[0]
    if is_quoted:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return _integer(text, position)
    if _FLOAT.fullmatch(text):
        return float(text)
    if special := _SPECIAL.fullmatch(text):
        return float(f"{special[1] or ''}inf") if special[2] else float("nan")
    return text


def _text(value: str, position: Position) -> str:
    text = _SURROGATES.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), value)
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        message = f"{format_value(text)} has a character that databases cannot store (\\0, or half a surrogate pair)"
        raise _Refused(message, position)
    return text


def _integer(text: str, position: Position) -> int:
    if len(text) > 19:
        raise _Refused(f"{format_value(text)} is too large a number", position)
    digits = text.lstrip("+-")
    if digits.startswith("0") and len(digits) > 1:
        decimal = digits.lstrip("0") or "0"
        raise _Refused(f"{text} looks octal; write {decimal} if it is a number, '{text}' if it is text", position)
    return int(text)
