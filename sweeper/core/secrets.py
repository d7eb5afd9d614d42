"""Masks secrets in text before it is shown or stored: passwords in URLs, and every registered value."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, unquote, urlsplit

_MASK = "***"


_KEY = r"(?:pass(?:word|wd|phrase)?|pwd|secret|token|(?:api|access)?_?key)"
"""Names of keys in a URL's query whose values are secret."""


_USERINFO = re.compile(r"(https?)?://([^\s/:]*)(:[^\s/]*)?@")


_QUERY = re.compile(rf"((?:[?&;]{_KEY}|\bpassword|\bpasswd)=)[^&;\s'\"]+", re.IGNORECASE)


_SECRET_KEY = re.compile(_KEY, re.IGNORECASE)


_SECRET_VARIABLE = re.compile(
    r"(SECRET|PASSWORD|PASSWD|_PWD|PASSPHRASE|TOKEN|_KEY|APIKEY|CREDENTIALS?)$", re.IGNORECASE
)
"""Ends of the names of environment variables that hold secrets: AWS_SECRET_ACCESS_KEY, PGPASSWORD, HF_TOKEN."""


# As SQLAlchemy reads it: the user ends at the first colon, the password at the first @; it may contain a slash.
_PASSWORD = re.compile(r"://[^:/@\s]*:([^@\s]*)@")


MIN_CHARS_ANYWHERE = 8
"""A secret of at least this length is masked anywhere; a shorter one only as a whole word."""


MIN_CHARS = 4
"""Shorter values are not registered: masking them would garble ordinary text."""


_known: set[str] = set()


def redact(text: object) -> str:
    """Return the text with its secrets masked."""
    found = _USERINFO.sub(_mask_userinfo, str(text))
    found = _QUERY.sub(rf"\1{_MASK}", found)
    for secret in sorted(_secrets(), key=len, reverse=True):
        found = re.sub(_pattern(secret), _MASK, found)
    return found


def register_secret(secret: str) -> None:
    """Register a secret that `redact` masks from now on, also where a URL quotes it."""
    _known.update(form for form in (secret, unquote(secret), quote(secret, safe="")) if len(form) >= MIN_CHARS)


def register_url_secrets(url: str) -> None:
    """Register the password and the other secrets of a URL, so that `redact` masks them in any text."""
    try:
        parts = urlsplit(url)
    except ValueError:  # not a URL; the code that needs one reports that
        return
    lone_user = parts.username if parts.scheme.startswith("http") and not parts.password else None
    in_query = [value for key, value in parse_qsl(parts.query) if is_secret_key(key)]
    for secret in (parts.password, lone_user, *_PASSWORD.findall(url), *in_query):
        register_secret(secret or "")


def has_secret(url: str) -> bool:
    """Return whether a URL contains a secret, and so must not be stored."""
    return redact(url) != url


def is_secret_key(key: str) -> bool:
    """Return whether the value of this key in a URL's query is secret."""
    return _SECRET_KEY.fullmatch(key) is not None


def _mask_userinfo(match: re.Match[str]) -> str:
    scheme, user, password = match[1] or "", match[2], match[3]
    if password is None and not scheme:  # the user of a database is no secret; a lone user of a web server is a token
        return match[0]
    return f"{scheme}://{_MASK if password is None else f'{user}:{_MASK}'}@"


def _secrets() -> Iterable[str]:
    """Return the registered secrets and those in the environment."""
    environment = [value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)]
    return {*_known, *(value for value in environment if len(value) >= MIN_CHARS_ANYWHERE)}


def _pattern(secret: str) -> str:
    escaped = re.escape(secret)
    return escaped if len(secret) >= MIN_CHARS_ANYWHERE else rf"(?<!\w){escaped}(?!\w)"
