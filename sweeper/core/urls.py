"""URLs of databases and servers: checks, what they name, and references like `${env:NAME}` in the place of secrets."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from sweeper.core.errors import InputError
from sweeper.core.secrets import has_secret_part, is_secret_key, register_url_secrets
from sweeper.core.text import did_you_mean, format_value

_REFERENCE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
"""A scheme; of two letters at least, because a single one is a drive of Windows."""

_HOST_AND_PORT = re.compile(r"(//)?([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}(/|$)|localhost(/|$)|\d+(\.\d+){3}(/|$)")

SQLITE, CLUSTER = "sqlite:///", "k8s://"

MAX_NAME_BYTES = 255
"""Longest name of a file, in bytes, on the usual file systems."""


_UNQUOTED = (
    "is no URL that can be read in one way only. In a user or password write %40 for @, %2F for /, %23 for # and "
    "%3F for ?; the port is a number from 1 to 65535"
)


def problem_of_url(text: str, schemes: Iterable[str], *, secrets: bool = False) -> str | None:
    """Return the problem of a URL; None if there is none. The text never repeats a secret of the URL.

    Args:
        schemes: The allowed schemes, without a driver: "postgresql" allows postgresql+psycopg:// too.
        secrets: Whether the URL may contain secrets.
    """
    if _REFERENCE.fullmatch(text):
        return None
    if "${" in _REFERENCE.sub("", text):
        return "has a reference that cannot be read; write ${env:NAME}"
    if not text.isprintable() or not text.strip():
        return "is empty or has a control character"
    if text != text.strip():
        return "has a space at its beginning or end"
    try:
        parts = urlsplit(_REFERENCE.sub("0", text))
        port = parts.port
    except ValueError:  # its message may repeat a password that is in the wrong place
        return _UNQUOTED if "@" in text else "is no URL; is the port a number from 1 to 65535?"
    known = sorted(schemes)
    if parts.scheme.partition("+")[0] not in known:
        return f"has an unknown scheme {format_value(parts.scheme)}. {did_you_mean(parts.scheme, known)}"
    password = parts.netloc.rpartition("@")[0].partition(":")[2]
    if "@" in password or ("@" in parts.fragment and ":" in parts.netloc):
        return _UNQUOTED
    if not text.startswith(parts.scheme):
        return f"has a scheme in capitals; write {parts.scheme}"
    if port == 0:
        return "has port 0; use 1 to 65535"
    if " " in parts.netloc:
        return "has a space in the name of the host"
    if parts.scheme in ("http", "https", "ray") and not parts.hostname:
        return f"names no host; write {parts.scheme}://host:port"
    if not secrets and _has_secret(text):
        return "has a password in clear; put it in an environment variable and write ${env:NAME} in its place"
    return None


def _has_secret(text: str) -> bool:
    plain = _REFERENCE.sub("", text)
    parts = urlsplit(plain)
    is_secret = bool(parts.password) or any(is_secret_key(key) for key, value in parse_qsl(parts.query) if value)
    return is_secret or has_secret_part(plain)


def problem_of_database_url(text: str, *, secrets: bool = False, may_look: bool = False) -> str | None:
    """Return the problem of the URL of a study's database; None if there is none, or for a look at a cluster's."""
    if text.startswith(CLUSTER):
        command = "sweeper submit FILE --backend kuberay, without --storage"
        return None if may_look else f"names a cluster to look at; to run a sweep there: {command}"
    is_text = text.strip() and text.isprintable() and "${" not in text
    if is_text and "://" not in text and not text.startswith("sqlite:"):
        return "is no URL of a database; try sqlite:///sweeper.db or postgresql+psycopg://host/name"
    return problem_of_url(text, ("sqlite", "postgresql", "mysql"), secrets=secrets) or _problem_of_sqlite(text)


def _problem_of_sqlite(text: str) -> str | None:
    """Return the problem of the URL of a SQLite file; None if there is none, or if it is another URL."""
    scheme, _, rest = text.partition(":")
    path, options, _ = rest.partition("?")
    if scheme.partition("+")[0] != "sqlite":
        return None
    if path.lstrip("/") in ("", ":memory:"):
        return "names no file, so that nothing would be kept; try sqlite:///sweeper.db"
    if not path.startswith("///"):
        proposal = f": {SQLITE}{path.lstrip('/')}" if _is_shown(path) else ""
        return f"needs three slashes before the path of the file{proposal}"
    if options:
        return "has options after '?', but a SQLite file takes none"
    if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in path.split("/")):
        return f"names a file or folder with more than {MAX_NAME_BYTES} bytes, which no file system can hold"
    if os.path.expanduser(path[3:]).startswith("~"):
        return "begins with '~', but there is no such user; write ./~ for a file of that name"
    return None


_TRACKING_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "file", "databricks")


def problem_of_tracking_uri(text: str, *, secrets: bool = False) -> str | None:
    """Return the problem of the URI of an MLflow server or store; None if there is none."""
    if "${" in text or not text.isprintable() or not text.strip() or text != text.strip():
        return problem_of_url(text, _TRACKING_SCHEMES, secrets=secrets)
    scheme = _SCHEME.match(text)
    if text.startswith(("databricks-uc", "uc:")):
        return "is the address of a registry of models, where MLflow keeps no runs; write databricks"
    if _HOST_AND_PORT.match(text):
        proposal = f"http://{text.lstrip('/')}" if _is_shown(text) else "http://HOST:PORT"
        return f"has no scheme; write {proposal}"
    if text == "databricks":
        return None
    if scheme is None or scheme[1] == "file":
        return None if are_folders_allowed() else _problem_of_folder(text)
    if problem := problem_of_url(text, _TRACKING_SCHEMES, secrets=secrets) or _problem_of_sqlite(text):
        return problem
    if "://" not in text:
        return "needs '://' after the scheme, as in http://host:5000"
    if is_http(text) and ("?" in text or "#" in text):
        return "has a part after '?' or '#', as the address of a page; write that of the server, as in http://host:5000"
    return None


def _problem_of_folder(text: str) -> str:
    """Return the problem of a path or a file: URI as MLflow's store, with a proposal that can be followed."""
    folder = unquote(re.sub(r"^file:(//(localhost)?)?", "", text)) if text.startswith("file:") else text
    if not _is_shown(folder):
        return f"names a folder, where MLflow no longer keeps runs; use {SQLITE}mlflow.db, or a server"
    store = folder if folder.endswith(".db") else os.path.join(os.path.normpath(folder), "mlflow.db")
    return f"names a folder, where MLflow no longer keeps runs; use {SQLITE}{os.path.normpath(store)}, or a server"


def are_folders_allowed() -> bool:
    """Return whether MLflow is told to keep runs in a folder, which is no longer its default."""
    return os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1")


def _is_shown(text: str) -> bool:
    """Return whether a text can be repeated in a proposal: it is short, and has no place for a secret."""
    return len(text) <= 100 and text.isprintable() and not re.search(r"[@?#&;=]", text)


def problem_of_folder(path: str) -> str | None:
    """Return the problem of a sweep's folder, a path or a URL that is stored and shown; None if there is none."""
    if not path:
        return "is empty; name a folder, or leave the option out to use sweeps/NAME"
    if path.lower().startswith("file:") and "://" not in path:  # as a path it would be a folder called `file:`
        return f"is no URL ({path}); write the path alone, or file:///path with three slashes"
    if has_secret_part(path):
        return "has a password or a key in clear; give it in the environment, as in AWS_SECRET_ACCESS_KEY"
    return None


def problem_of_address(text: str) -> str | None:
    """Return the problem of the address of a Ray cluster; None if there is none."""
    if text in ("auto", "local"):
        return None
    if text.startswith("ray://"):
        return (
            "is that of Ray's client, through which no sweep can run; write host:6379 and run it on a node of the "
            "cluster, or use `sweeper submit`"
        )
    url = text if "://" in text else f"ray://{text}"
    if problem := problem_of_url(url, ("ray",)):
        return problem
    if urlsplit(url).port is None:
        return "names no port; write host:6379, or leave it out for this machine"
    return None


def expand(text: str) -> str:
    """Return a URL with its references to the environment replaced by their values.

    Values are quoted, unless the reference is the whole URL or is in the path of a SQLite file, which may also begin
    with `~`. The secrets of the URL are registered, so that messages mask them.

    Raises:
        InputError: A variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if not found:
            raise InputError(f"the environment variable {match[1]} is not set, and the sweep refers to it")
        is_whole = match[0] == text or text.startswith("sqlite")
        return found if is_whole else quote(found, safe="")

    url = with_home(_REFERENCE.sub(value, text))
    register_url_secrets(url)
    return url


def with_home(url: str) -> str:
    """Return a URL with the home folder in the place of a `~` at the beginning of a SQLite file's path."""
    scheme, separator, path = url.partition(":///")
    if not scheme.startswith("sqlite") or not path.startswith("~"):
        return url
    return f"{scheme}{separator}{os.path.expanduser(path)}"


def references(text: str) -> list[str]:
    """Return the names of the environment variables that a URL refers to."""
    return _REFERENCE.findall(text)


def is_http(uri: str) -> bool:
    """Return whether the address is that of a web server, and not of a database."""
    return uri.startswith(("http://", "https://"))


def sqlite_path(url: str) -> Path | None:
    """Return the absolute path of a SQLite database; None for any other database."""
    scheme, separator, path = with_home(url).partition(":///")
    return Path(path).absolute() if separator and scheme.partition("+")[0] == "sqlite" else None


def is_same_database(first: str, second: str) -> bool:
    """Return whether two URLs name one database: the same file, also by a link, or the same schema of a server."""
    one, other = sqlite_path(first), sqlite_path(second)
    if one is not None and other is not None:
        return os.path.realpath(one) == os.path.realpath(other) or (
            one.exists() and other.exists() and os.path.samefile(one, other)
        )
    return one is other is None and not is_http(first) and _server_database(first) == _server_database(second)


_DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306}


def _server_database(url: str) -> tuple[object, ...]:
    parts = urlsplit(url)
    kind, query = parts.scheme.partition("+")[0], dict(parse_qsl(parts.query))
    host = query.get("host") or parts.hostname or "localhost"
    port = query.get("port") or parts.port or _DEFAULT_PORTS.get(kind)
    place = "localhost" if host.startswith("127.") or host == "::1" else host
    return kind, place, str(port), query.get("dbname") or parts.path.strip("/"), query.get("options")


def connect_to_read(path: Path, *, timeout: float) -> sqlite3.Connection:
    """Open a SQLite file to read it, and change neither it nor its log; wait `timeout` seconds for a lock.

    The last connection to a file writes the log of a killed process into it, unless it may not write. But one that may
    not write leaves an empty log beside a file that has none. So the right to write depends on whether there is a log.

    Raises:
        sqlite3.Error: it cannot be read, or is no database.
    """
    logs = [Path(os.path.realpath(path) + ending) for ending in ("-wal", "-journal")]
    try:
        has_log = any(log.exists() and log.stat().st_size for log in logs)
    except FileNotFoundError:  # another process has just written and deleted it
        has_log = False
    connection = sqlite3.connect(f"{path.as_uri()}?mode={'ro' if has_log else 'rw'}", uri=True, timeout=timeout)
    connection.execute("PRAGMA query_only = ON")
    return connection


def is_loopback(address: str) -> bool:
    """Return whether `HOST:PORT` can be reached from this machine only, or cannot be resolved."""
    host = address.rpartition(":")[0].strip("[]") or address
    try:
        found = {ipaddress.ip_address(place[4][0]) for place in socket.getaddrinfo(host, None)}
    except OSError:  # Ray reports that it cannot be reached
        return True
    return all(place.is_loopback for place in found)
