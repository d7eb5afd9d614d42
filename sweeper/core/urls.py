"""URLs of databases and servers in a sweep: what may stand there, and `${env:NAME}` in place of secrets."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlsplit

from sweeper.core.errors import InputError
from sweeper.core.secrets import register_url_secrets
from sweeper.core.text import did_you_mean, format_value

_REFERENCE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")


_SECRET = re.compile(r"pass(word|wd)?|pwd|secret|token|(api)?_?key", re.IGNORECASE)


SQLITE = "sqlite:///"


def problem_of_url(text: str, schemes: Iterable[str], *, secrets: bool = False) -> str | None:
    """What is wrong with a URL, without repeating what may be a secret in it; `secrets`: it may hold one."""
    if _REFERENCE.fullmatch(text):
        return None
    if "${" in _REFERENCE.sub("", text):
        return "has a reference that cannot be read; write ${env:NAME}"
    if not text.isprintable() or not text.strip():
        return "is empty or has a control character"
    try:
        parts = urlsplit(_REFERENCE.sub("0", text))
        port = parts.port
    except ValueError:  # its text may repeat a password that stands in the wrong place
        return "is no URL; is the port a number from 1 to 65535?"
    known = sorted(schemes)
    if parts.scheme.partition("+")[0] not in known:
        return f"has an unknown scheme {format_value(parts.scheme)}. {did_you_mean(parts.scheme, known)}"
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
    parts = urlsplit(_REFERENCE.sub("", text))
    return bool(parts.password) or any(_SECRET.fullmatch(key) for key, value in parse_qsl(parts.query) if value)


def problem_of_database_url(text: str, *, secrets: bool = False) -> str | None:
    """What is wrong with the URL of a database that is to hold a study."""
    if fault := problem_of_url(text, ("sqlite", "postgresql", "mysql"), secrets=secrets):
        return fault
    if re.fullmatch(r"sqlite(\+\w+)?:/{0,3}(:memory:)?", text):
        return "names no file, so that nothing would be kept; try sqlite:///sweeper.db"
    if text.startswith("sqlite") and not re.match(r"sqlite(\+\w+)?:///", text):
        return "needs three slashes before the path of the file: sqlite:///sweeper.db"
    return None


def problem_of_tracking_uri(text: str, *, secrets: bool = False) -> str | None:
    """What is wrong with the address of an MLflow server or store; a plain path is one too."""
    if "://" not in text and not text.startswith("${") and text.isprintable() and text.strip():
        return None
    schemes = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "file", "databricks")
    return problem_of_url(text, schemes, secrets=secrets)


def problem_of_address(text: str) -> str | None:
    """What is wrong with the address of a Ray cluster."""
    if text in ("auto", "local"):
        return None
    url = text if "://" in text else f"ray://{text}"
    if fault := problem_of_url(url, ("ray",)):
        return fault
    if urlsplit(url).port is None:
        return "names no port; write host:6379 or ray://host:10001, or leave it out for this machine"
    return None


def expand(text: str) -> str:
    """The URL with its references to the environment resolved; parts of a URL are quoted as URLs need it.

    Its password is taken out of all that is said from then on.

    Raises:
        InputError: a variable is not set.
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
    """The environment variables that a URL refers to."""
    return _REFERENCE.findall(text)


def sqlite_path(url: str) -> Path | None:
    """Return the absolute path of a SQLite database, None for any other."""
    return Path(url.removeprefix(SQLITE)).absolute() if url.startswith(SQLITE) else None


def is_loopback(address: str) -> bool:
    """Return whether every address of `HOST:PORT` is of this machine only; so is one that cannot be resolved."""
    host = address.rpartition(":")[0].strip("[]") or address
    try:
        found = {ipaddress.ip_address(place[4][0]) for place in socket.getaddrinfo(host, None)}
    except OSError:  # it cannot be reached, which Ray will say
        return True
    return all(place.is_loopback for place in found)
