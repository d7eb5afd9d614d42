from __future__ import annotations

from collections.abc import Iterator

import pytest

from sweeper.core import secrets
from sweeper.core.secrets import has_secret, redact, register_secret, register_url_secrets
from sweeper.core.urls import expand


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
def test_what_a_url_proves_who_asks_with_is_taken_out(text: str, redacted: str) -> None:
    assert redact(text) == redacted
    assert has_secret(text)


@pytest.mark.parametrize(
    "text",
    ["postgresql://ada@db/sweeps", "sqlite:///sweeper.db", "http://host:5000/a@b", "--set KEY=VALUE", "a: b@c, d@e"],
)
def test_text_without_a_secret_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


def test_a_password_that_a_sweep_refers_to_is_taken_out_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_VARIABLE", "s/ecret canary")
    assert expand("postgresql://ada:${env:SOME_VARIABLE}@db/x") == "postgresql://ada:s%2Fecret%20canary@db/x"
    assert redact("refused: s/ecret canary, sent as s%2Fecret%20canary") == "refused: ***, sent as ***"


def test_the_password_of_a_url_that_is_wholly_in_the_environment_is_known_and_the_rest_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SWEEPER_STORAGE", "postgresql://ada:a/canary@db/x")
    expand("${env:SWEEPER_STORAGE}")
    assert redact("ada at db/x said a/canary") == "ada at db/x said ***"


def test_what_the_environment_calls_a_secret_is_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "PGPASSWORD", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, f"canary-of-{name.lower()}")
        assert redact(f"sent canary-of-{name.lower()}!") == "sent ***!"
    monkeypatch.setenv("KEYBOARD", "quite ordinary")
    assert redact("quite ordinary") == "quite ordinary"


def test_a_short_secret_does_not_eat_words_that_hold_it() -> None:
    register_secret("test")
    assert redact("test: test_accuracy of testing") == "***: test_accuracy of testing"


def test_a_secret_that_holds_another_is_taken_out_whole() -> None:
    register_secret("canary-short")
    register_secret("canary-short-and-long")
    assert redact("canary-short-and-long") == "***"


def test_what_is_no_url_teaches_nothing() -> None:
    register_url_secrets("http://[canary")
    assert redact("canary") == "canary"
