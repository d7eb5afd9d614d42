"""Takes secrets out of text before it is shown or kept: passwords in URLs, and every value known to be one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, unquote, urlsplit

_MASK = "***"


_KEY = r"(?:password|passwd|passphrase|pwd|secret|token|(?:api_?|access_?)?key)"


_USERINFO = re.compile(r"(https?)?://([^\s/:]*)(:[^\s/]*)?@")


_QUERY = re.compile(rf"((?:[?&;]{_KEY}|\bpassword|\bpasswd)=)[^&;\s'\"]+", re.IGNORECASE)


_SECRET_KEY = re.compile(_KEY, re.IGNORECASE)


_SECRET_NAME = re.compile(r"(SECRET|PASSWORD|PASSWD|_PWD|PASSPHRASE|TOKEN|_KEY|APIKEY|CREDENTIALS?)$", re.IGNORECASE)


# The user name ends at the first colon, the password at the first @, as SQLAlchemy reads it; it may hold a slash.
_PASSWORD = re.compile(r"://[^:/@\s]*:([^@\s]*)@")


MIN_CHARS_ANYWHERE = 8
"""A secret of so many characters is taken out wherever it stands; a shorter one could be part of any word."""


MIN_CHARS = 4


_known: set[str] = set()


def redact(text: object) -> str:
    """Text without its secrets."""
    found = _USERINFO.sub(_without_password, str(text))
    found = _QUERY.sub(rf"\1{_MASK}", found)
    for secret in sorted(_secrets(), key=len, reverse=True):
        found = re.sub(_pattern(secret), _MASK, found)
    return found


def register_secret(secret: str) -> None:
    """Take this value out of every text from now on."""
    _known.update(form for form in (secret, unquote(secret), quote(secret, safe="")) if len(form) >= MIN_CHARS)


def register_url_secrets(url: str) -> None:
    """Take what is secret in this URL out of every text, wherever it turns up."""
    try:
        parts = urlsplit(url)
    except ValueError:  # it is no URL; whoever needs one will say so
        return
    lone_user = parts.username if parts.scheme.startswith("http") and not parts.password else None
    in_query = [value for key, value in parse_qsl(parts.query) if _SECRET_KEY.fullmatch(key)]
    for secret in (parts.password, lone_user, *_PASSWORD.findall(url), *in_query):
        register_secret(secret or "")


def has_secret(url: str) -> bool:
    """Whether a URL holds what may not be written down."""
    return redact(url) != url


def _without_password(match: re.Match[str]) -> str:
    scheme, user, password = match[1] or "", match[2], match[3]
    if password is None and not scheme:  # a database's user, who needs no password; a lone user of a server is a token
        return match[0]
    return f"{scheme}://{_MASK if password is None else f'{user}:{_MASK}'}@"


def _secrets() -> Iterable[str]:
    """What is known to be secret, and what the environment calls so: AWS_SECRET_ACCESS_KEY, PGPASSWORD, HF_TOKEN."""
    named = (
        value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) >= MIN_CHARS_ANYWHERE
    )
    return {*_known, *named}


def _pattern(secret: str) -> str:
    escaped = re.escape(secret)
    return escaped if len(secret) >= MIN_CHARS_ANYWHERE else rf"(?<!\w){escaped}(?!\w)"
