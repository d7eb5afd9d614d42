"""Reads YAML 1.2 written by people: plain data only, nothing that surprises, and the place of every key."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, events
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from sweeper.core.errors import LocatedProblem, SpecError
from sweeper.core.schema import Key
from sweeper.core.text import format_value

Position = tuple[int, int]
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
    def __init__(self, message: str, place: Position | None = None) -> None:
        self.message = message
        self.place = place


def read_yaml(path: str | Path) -> tuple[Any, Positions]:
    """The data of a YAML file, and the line and column (from 1) of each key and list item.

    Raises:
        SpecError: the file cannot be read, or holds anything but one document of plain data.
    """
    try:
        return _parse(_decode(_read(Path(path))))
    except _Refused as refused:
        line, column = refused.place or (None, None)
        raise SpecError(str(path), [LocatedProblem("", refused.message, line, column)]) from refused


def parse_value(text: str) -> Any:
    """A value as it would stand in a file: `5`, `1e-3`, `[64, 128]`.

    Raises:
        ValueError: it cannot stand in a file.
    """
    try:
        return _parse(text)[0] if text.strip() else ""
    except _Refused as refused:
        raise ValueError(refused.message) from refused


def _read(path: Path) -> bytes:
    if str(path) == "-":
        raise _Refused("a sweep is not read from standard input; save it to a file, so that it can be run again")
    try:
        # Without O_NONBLOCK, opening a FIFO that nobody writes to would wait for ever.
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
        raise _Refused("holds a NUL byte: is it a binary file, or UTF-16?", _place_after(data[: data.index(b"\0")]))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"is not UTF-8 (byte 0x{data[error.start]:02x}); if it is Latin-1: iconv -f latin1 -t utf-8"
        raise _Refused(message, _place_after(data[: error.start])) from error


def _place_after(data: bytes) -> Position:
    return data.count(b"\n") + 1, len(data.rpartition(b"\n")[2].decode("utf-8-sig", "replace")) + 1


def _parse(text: str) -> tuple[Any, Positions]:
    builder = _Builder()
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            builder.take(event)
    except MarkedYAMLError as error:
        raise _Refused(_describe_yaml_error(error), _mark(error.problem_mark or error.context_mark)) from error
    except ReaderError as error:
        place = _place_after(text[: error.position].encode("utf-8", "replace"))
        raise _Refused(f"holds a control character (U+{ord(text[error.position]):04X})", place) from error
    except (YAMLError, ValueError) as error:
        raise _Refused(f"is not YAML: {error}") from error
    return builder.finish()


def _mark(mark: Any) -> Position | None:
    return None if mark is None else (mark.line + 1, mark.column + 1)


_EXPLAINED = {
    "cannot start any token": "a character that can start no value here",
    "'\\t'": "a tab; YAML is indented with spaces",
    "expected <block end>": "the indentation fits no line above (or a bracket or a quote is missing)",
    "mapping values are not allowed": "a second ':' in one value; quote the text, or start a new line",
    "expected ',' or": "a bracket is not closed, or a comma is missing",
    "unexpected end of stream": "a quote is not closed",
    "could not find expected ':'": "a key without ': ' and a value (or a wrong indentation)",
}


def _describe_yaml_error(error: MarkedYAMLError) -> str:
    seen = str(error.problem or error.context)
    reasons = [reason for part, reason in _EXPLAINED.items() if part in seen]
    return f"is not YAML: {reasons[-1]} [{seen}]" if reasons else f"is not YAML: {seen}"


class _Builder:
    """Builds data from parse events without recursion, so that depth is a rule and not a crash."""

    def __init__(self) -> None:
        self._stack: list[dict[str, Any] | list[Any]] = []
        self._path: list[str | int] = []
        self._key: str | None = None
        self._root: list[Any] = []
        self._values = 0
        self.places: Positions = {}

    def take(self, event: events.Event) -> None:
        place = _mark(event.start_mark) or (1, 1)
        if isinstance(event, events.DocumentStartEvent) and self._root:
            raise _Refused("a second document starts here; one file is one sweep", place)
        if isinstance(event, events.NodeEvent):
            self._check(event, place)
            if self._stack and isinstance(self._stack[-1], dict) and self._key is None:
                self._take_key(event, place)
            else:
                self._take_value(event, place)
        elif isinstance(event, events.CollectionEndEvent):
            self._stack.pop()
            if self._path:
                self._path.pop()

    def finish(self) -> tuple[Any, Positions]:
        if not self._root:
            raise _Refused("is empty; the shortest sweep has name, budget and space")
        return self._root[0], self.places

    def _check(self, event: events.NodeEvent, place: Position) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise _Refused(f"more than {MAX_VALUES:,} values; is it a sweep?", place)
        if isinstance(event, events.AliasEvent) or event.anchor is not None:
            sign = "*" if isinstance(event, events.AliasEvent) else "&"
            raise _Refused(
                f"{sign}{str(event.anchor)[:60]}: anchors and aliases are not used here; repeat the value", place
            )
        if (tag := getattr(event, "ctag", None)) is not None:  # its text takes ruamel seconds if it is long
            written = format_value(f"{tag.handle or ''}{tag.suffix}")
            raise _Refused(f"{written}: tags are not used here; write plain values", place)

    def _take_key(self, event: events.NodeEvent, place: Position) -> None:
        key = _resolve(event, place) if isinstance(event, events.ScalarEvent) else None
        if not isinstance(key, str):
            name = event.value if isinstance(event, events.ScalarEvent) else "a list or a mapping"
            raise _Refused(f"the key {format_value(name)} is no text; quote it if it is meant", place)
        if key == "<<":
            raise _Refused("<<: merge keys are not used here; repeat the keys", place)
        mapping = self._stack[-1]
        if key in mapping:
            line, _ = self.places[(*self._path, key)]
            raise _Refused(f"the key {format_value(key)} is there already, in line {line}", place)
        self._key = key
        self.places[(*self._path, key)] = place

    def _take_value(self, event: events.NodeEvent, place: Position) -> None:
        value: Any
        if isinstance(event, events.ScalarEvent):
            value = _resolve(event, place)
        else:
            value = {} if isinstance(event, events.MappingStartEvent) else []
        if not self._stack:
            self._root.append(value)
        elif isinstance(parent := self._stack[-1], list):
            self._path.append(len(parent))
            self.places[tuple(self._path)] = place
            parent.append(value)
        else:
            assert self._key is not None
            self._path.append(self._key)
            parent[self._key], self._key = value, None
        if isinstance(event, events.MappingStartEvent | events.SequenceStartEvent):
            self._stack.append(value)
            if len(self._stack) > MAX_DEPTH:
                raise _Refused(f"nested deeper than {MAX_DEPTH} levels", place)
        elif self._path:
            self._path.pop()


_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
"""A character beyond 16 bits as JSON writes it, which is YAML too: two escapes, read one by one."""


def _resolve(event: events.ScalarEvent, place: Position) -> object:
    """A scalar as YAML 1.2 reads it; what 1.1 would read as something else again is refused."""
    text: str = _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), event.value)
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise _Refused(f"{format_value(text)} holds what no database keeps: \\0, or half a character", place)
    if not event.implicit[0]:  # quoted
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        if len(text) > 19:
            raise _Refused(f"{format_value(text)} is too large a number", place)
        if text.lstrip("+-").startswith("0") and len(text.lstrip("+-")) > 1:
            decimal = text.lstrip("+-").lstrip("0") or "0"
            raise _Refused(f"{text} looks octal; write {decimal} if it is a number, '{text}' if it is text", place)
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if special := _SPECIAL.fullmatch(text):
        return float(f"{special[1] or ''}inf") if special[2] else float("nan")
    return text
