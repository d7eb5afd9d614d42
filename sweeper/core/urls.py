"""URLs of databases and servers: checks, and references like `${env:NAME}` in the place of secrets."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlsplit

from sweeper.core.errors import InputError
from sweeper.core.secrets import has_secret_part, is_secret_key, register_url_secrets
from sweeper.core.text import did_you_mean, format_value

_REFERENCE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")


SQLITE = "sqlite:///"


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


def problem_of_database_url(text: str, *, secrets: bool = False) -> str | None:
    """Return the problem of the URL of a study's database; None if there is none."""
    if problem := problem_of_url(text, ("sqlite", "postgresql", "mysql"), secrets=secrets):
        return problem
    if re.fullmatch(r"sqlite(\+\w+)?:/{0,3}(:memory:)?", text):
        return "names no file, so that nothing would be kept; try sqlite:///sweeper.db"
    if text.startswith("sqlite") and not re.match(r"sqlite(\+\w+)?:///", text):
        return "needs three slashes before the path of the file: sqlite:///sweeper.db"
    return None


def problem_of_tracking_uri(text: str, *, secrets: bool = False) -> str | None:
    """Return the problem of the URI of an MLflow server or store, which may be a plain path; None if there is none."""
    if "://" not in text and not text.startswith("${") and text.isprintable() and text.strip():
        return None
    schemes = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "file", "databricks")
    return problem_of_url(text, schemes, secrets=secrets)


def problem_of_folder(path: str) -> str | None:
    """Return the problem of a sweep's folder, a path or a URL that is stored and shown; None if there is none."""
    if not path:
        return "is empty; name a folder, or leave the option out to use sweeps/NAME"
    if has_secret_part(path):
        return (
            "has a password or a key in clear; leave it out of the URL, and give it in the environment, as in "
            "AWS_SECRET_ACCESS_KEY"
        )
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

    Values are quoted, unless the reference is the whole URL. The secrets of the URL are registered, so that messages
    mask them.

    Raises:
        InputError: A variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if not found:
            raise InputError(f"the environment variable {match[1]} is not set, and the sweep refers to it")
        return found if match[0] == text else quote(found, safe="")

    url = _REFERENCE.sub(value, text)
    register_url_secrets(url)
    return url


def references(text: str) -> list[str]:
    """Return the names of the environment variables that a URL refers to."""
    return _REFERENCE.findall(text)


def sqlite_path(url: str) -> Path | None:
    """Return the absolute path of a SQLite database; None for any other database."""
    return Path(url.removeprefix(SQLITE)).absolute() if url.startswith(SQLITE) else None


def is_loopback(address: str) -> bool:
    """Return whether `HOST:PORT` can be reached from this machine only, or cannot be resolved."""
    host = address.rpartition(":")[0].strip("[]") or address
    try:
        found = {ipaddress.ip_address(place[4][0]) for place in socket.getaddrinfo(host, None)}
    except OSError:  # Ray reports that it cannot be reached
        return True
    return all(place.is_loopback for place in found)
