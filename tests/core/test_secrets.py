from __future__ import annotations

from collections.abc import Iterator

import pytest

from sweeper.core import secrets
from sweeper.core.secrets import has_secret, is_secret_key, redact, register_secret, register_url_secrets
from sweeper.core.urls import expand, problem_of_url


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(secrets, "_known", set())
    yield


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("postgresql+psycopg://ada:canary@db/sweeps", "postgresql+psycopg://ada:***@db/sweeps"),
        ("at https://canary@host, really", "at https://***@host, really"),
        ("http://u:can@ary@h", "http://u:***@h"),
        ("http://h/?a=1&token=canary&b=2", "http://h/?a=1&token=***&b=2"),
        ("connection to host=db password=canary failed", "connection to host=db password=*** failed"),
    ],
)
def test_credentials_in_urls_are_masked(text: str, redacted: str) -> None:
    assert redact(text) == redacted
    assert has_secret(text)


@pytest.mark.parametrize(
    "text",
    ["postgresql://ada@db/sweeps", "sqlite:///sweeper.db", "http://host:5000/a@b", "--set KEY=VALUE", "a: b@c, d@e"],
)
def test_text_without_a_secret_is_unchanged(text: str) -> None:
    assert redact(text) == text


def test_password_from_the_environment_is_masked_in_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_VARIABLE", "s/ecret canary")
    assert expand("postgresql://ada:${env:SOME_VARIABLE}@db/x") == "postgresql://ada:s%2Fecret%20canary@db/x"
    assert redact("refused: s/ecret canary, sent as s%2Fecret%20canary") == "refused: ***, sent as ***"


def test_only_the_password_of_a_url_from_the_environment_is_masked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SWEEPER_STORAGE", "postgresql://ada:a/canary@db/x")
    expand("${env:SWEEPER_STORAGE}")
    assert redact("ada at db/x said a/canary") == "ada at db/x said ***"


def test_variables_with_the_name_of_a_secret_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "PGPASSWORD", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, f"canary-of-{name.lower()}")
        assert redact(f"sent canary-of-{name.lower()}!") == "sent ***!"
    monkeypatch.setenv("KEYBOARD", "quite ordinary")
    assert redact("quite ordinary") == "quite ordinary"


def test_short_secret_is_masked_only_as_a_whole_word() -> None:
    register_secret("test")
    assert redact("test: test_accuracy of testing") == "***: test_accuracy of testing"


def test_secret_that_contains_another_is_masked_whole() -> None:
    register_secret("canary-short")
    register_secret("canary-short-and-long")
    assert redact("canary-short-and-long") == "***"


def test_invalid_url_registers_no_secret() -> None:
    register_url_secrets("http://[canary")
    assert redact("canary") == "canary"


SECRET_KEYS = "pass password passwd passphrase pwd secret Token key _key apikey API_KEY accesskey access_key".split()


@pytest.mark.parametrize("key", SECRET_KEYS)
def test_secret_key_in_a_query_is_refused_masked_and_registered(key: str) -> None:
    url = f"https://host/?{key}=canary-value&page=2"
    assert problem_of_url(url, ("https",)) is not None
    assert redact(url) == f"https://host/?{key}=***&page=2"
    register_url_secrets(url)
    assert redact("sent canary-value") == "sent ***"


@pytest.mark.parametrize("key", ["page", "keyword", "passing", "tokens", "monkey", "sslmode"])
def test_ordinary_key_in_a_query_is_no_secret(key: str) -> None:
    url = f"https://host/?{key}=canary-value"
    assert not is_secret_key(key) and not has_secret(url) and problem_of_url(url, ("https",)) is None
