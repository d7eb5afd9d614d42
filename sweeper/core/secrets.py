"""Masks secrets in text before it is shown or stored: passwords in URLs, and every registered value."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from urllib.parse import parse_qsl, quote, unquote, urlsplit

_MASK = "***"


_KEY = (
    r"(?:[\w.-]*(?:pass(?:word|wd|phrase)|secret|token|signature|credentials?|(?:api|access|account|secret)_?key)"
    r"|(?:[\w.-]*[_.-])?(?:pass|pwd|key|sig))"
)
"""Names of keys in a URL's query, or in a connection string, whose values are secret."""


# A port is no password: http://host:5000/a@b has none. Nor has k8s://CONTEXT@NAMESPACE, with a context of any form.
_USERINFO = re.compile(r"(https?|k8s)?://([^\s/:\[]*)(:(?!\d+(?:[/?#]|$))[^\s'\"]+)?@")


_PAIR = re.compile(
    rf"((?:[?&;]{_KEY}|\b\w*(?:password|passwd|accountkey|sharedaccesskey))(?:\s?=\s?|['\"]\s*:\s*))"
    r"('[^']*'|\"[^\"]*\"|[^&;\s'\"]+)",
    re.IGNORECASE,
)


_SECRET_KEY = re.compile(_KEY, re.IGNORECASE)


_SECRET_VARIABLE = re.compile(
    r"(SECRET|PASSWORD|PASSWD|PASSPHRASE|TOKEN|APIKEY|(API|ACCESS|SECRET|ACCOUNT)_KEY|CREDENTIALS?|CONN(ECTION)?_?STR(ING)?"
    r"|(^|_)PASS|(^|_)PAT|_PWD|_PW)(_?\d+)?$",
    re.IGNORECASE,
)
"""Ends of the names of environment variables that hold secrets: AWS_SECRET_ACCESS_KEY, PGPASSWORD, GITHUB_PAT."""


_KEY_VARIABLE = re.compile(r"_KEY(_?\d+)?$", re.IGNORECASE)
"""Ends of names that mean a secret, or as SORT_KEY an ordinary word: a short value is not taken for a secret."""


# As SQLAlchemy reads it: the user ends at the first colon, the password at the first @; it may contain a slash.
_PASSWORD = re.compile(r"://[^:/@\s]*:(?!\d+[/?#])([^@\s]*)@")


MIN_CHARS_ANYWHERE = 8
"""A secret of at least this length is masked anywhere; a shorter one only as a whole word."""


MIN_CHARS = 3
"""Shorter values are not registered: masking them would garble ordinary text."""


_NO_SECRETS = frozenset(("true", "false", "yes", "none", "null", "off"))
"""Values of variables such as USE_TOKEN."""


_known: set[str] = set()


def redact(text: object) -> str:
    """Return the text with its secrets masked. Cut a text only after this: a part of a secret is not recognised."""
    found = _mask_patterns(str(text))
    pattern = _pattern_of(frozenset(_secrets()))
    return found if pattern is None else pattern.sub(_MASK, found)


def register_secret(secret: str) -> None:
    """Register a secret that `redact` masks from now on, also where a URL quotes it, and each line of several."""
    _known.update(_forms(secret))


def register_url_secrets(url: str) -> None:
    """Register the password and the other secrets of a URL, so that `redact` masks them in any text."""
    for secret in _secrets_within(url):
        register_secret(secret)


def has_secret(url: str) -> bool:
    """Return whether a URL contains a secret, and so must not be stored."""
    return has_secret_part(url) or any(secret in url for secret in _secrets() if len(secret) >= MIN_CHARS_ANYWHERE)


def has_secret_part(url: str) -> bool:
    """Return whether a URL has a part that is there for a secret, as that of a password."""
    return _mask_patterns(url) != url


def is_secret_key(key: str) -> bool:
    """Return whether the value of this key in a URL's query is secret."""
    return _SECRET_KEY.fullmatch(key) is not None


def _mask_patterns(text: str) -> str:
    return _PAIR.sub(rf"\1{_MASK}", _USERINFO.sub(_mask_userinfo, text))


def _mask_userinfo(match: re.Match[str]) -> str:
    scheme, user, password = match[1] or "", match[2], match[3]
    # The user of a database is no secret; a lone user of a web server is a token.
    if scheme == "k8s" or (password is None and not scheme):
        return match[0]
    return f"{scheme}://{_MASK if password is None else f'{user}:{_MASK}'}@"


def _secrets() -> set[str]:
    """Return the registered secrets and those in the environment."""
    return _known | _secrets_of_environment(tuple(os.environ.items()))


@lru_cache(maxsize=1)
def _secrets_of_environment(variables: Iterable[tuple[str, str]]) -> set[str]:
    found: set[str] = set()
    for name, value in variables:
        is_secret = _SECRET_VARIABLE.search(name) and value.lower() not in _NO_SECRETS
        if is_secret or (_KEY_VARIABLE.search(name) and len(value) >= MIN_CHARS_ANYWHERE):
            found.update(_forms(value))
        for secret in _secrets_within(value):
            found.update(_forms(secret))
    return found


def _secrets_within(text: str) -> Iterator[str]:
    """Yield the secrets in a URL or a connection string."""
    yield from (match[2].strip("'\"") for match in _PAIR.finditer(text))
    if "://" not in text or text.startswith("k8s://"):
        return
    yield from _PASSWORD.findall(text)
    try:
        parts = urlsplit(text)
    except ValueError:  # not a URL; the code that needs one reports that
        return
    if parts.password:
        yield parts.password
        yield from parts.password.split("@")  # a library may take what is behind an unquoted @ for the host
    elif parts.username and parts.scheme.startswith("http"):
        yield parts.username
    yield from (value for key, value in parse_qsl(parts.query) if is_secret_key(key))


def _forms(secret: str) -> Iterator[str]:
    """Yield a secret as texts hold it: as it is, quoted in a URL, escaped by repr(); and each line of several."""
    lines = [line for line in secret.splitlines() if not line.startswith("-----")] if "\n" in secret else []
    for text in (secret.strip(), *lines):
        escaped = text.encode("unicode_escape").decode()
        yield from (form for form in (text, unquote(text), quote(text, safe=""), escaped) if len(form) >= MIN_CHARS)


@lru_cache(maxsize=4)
def _pattern_of(secrets: frozenset[str]) -> re.Pattern[str] | None:
    """Return a pattern that matches each secret, a longer one before those that it contains."""
    parts = [
        re.escape(secret) if len(secret) >= MIN_CHARS_ANYWHERE else rf"(?<!\w){re.escape(secret)}(?!\w)"
        for secret in sorted(secrets, key=lambda secret: (-len(secret), secret))
    ]
    return re.compile("|".join(parts)) if parts else None
