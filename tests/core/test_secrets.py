from __future__ import annotations

from collections.abc import Iterator

import pytest

from sweeper.core import secrets
from sweeper.core.secrets import has_secret, is_secret_key, redact, register_secret, register_url_secrets
from sweeper.core.text import first_line, format_value
from sweeper.core.urls import expand, problem_of_database_url, problem_of_folder, problem_of_url


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


VARIABLES = {
    "DB_PASS": "hunt3r",
    "PASS": "canary",
    "GITHUB_PAT": "ghp_12",
    "ADMIN_PASSWORD": "abc",
    "MYSQL_PWD": "w0rd",
    "TOKEN_2": "zz-canary",
    "AZURE_STORAGE_CONNECTION_STRING": "AccountName=x;AccountKey=canary/+12==;EndpointSuffix=y",
    "HTTP_PROXY": "http://ada:canary@proxy:3128",
    "ORDERS_DSN": "Server=x;Uid=ada;Pwd=canary;",
}
SECRETS = ["hunt3r", "canary", "ghp_12", "abc", "w0rd", "zz-canary", "canary/+12==", "canary", "canary"]


@pytest.mark.parametrize(("name", "secret"), [*zip(VARIABLES, SECRETS, strict=True)])
def test_secret_of_a_variable_is_masked_whatever_its_length(
    monkeypatch: pytest.MonkeyPatch, name: str, secret: str
) -> None:
    monkeypatch.setenv(name, VARIABLES[name])
    assert redact(f"refused: {secret} at x") == "refused: *** at x"


@pytest.mark.parametrize(("name", "value"), [("USE_TOKEN", "true"), ("SORT_KEY", "loss"), ("COMPASS", "north")])
def test_ordinary_variable_is_not_masked(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert redact(f"{value} is 3") == f"{value} is 3"


@pytest.mark.parametrize(
    "text",
    [
        "AccountName=x;AccountKey=canary==;EndpointSuffix=y",
        "s3://b/x?access_key=A&secret_key=canary",
        "file://ada:canary@store/x",
        "{'user': 'ada', 'password': 'canary'}",
        'db_password="canary two"',
        "postgresql://ada:ca/nary@db/x",
        "https://account/blob?sv=1&sig=canary%3D",
    ],
)
def test_secret_in_a_connection_string_is_masked(text: str) -> None:
    assert "nary" not in redact(text) and "***" in redact(text)


def test_each_line_of_a_secret_key_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOY_KEY", "-----BEGIN KEY-----\ncanary-line-one\ncanary-line-two\n-----END KEY-----\n")
    assert redact("begins with canary-line-one") == "begins with ***"
    assert "canary" not in redact(repr(ValueError("canary-line-one\ncanary-line-two")))


def test_text_is_masked_before_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "canary-" * 20)
    assert format_value("canary-" * 20) == "'***'"
    assert "canary" not in format_value({"a": "x" * 40 + "canary-" * 20})
    monkeypatch.setenv("SOME_SECRET", "first-canary\nsecond-canary")
    assert first_line(ValueError("at first-canary\nsecond-canary")) == "at ***"


def test_parts_of_a_password_with_an_unquoted_at_are_masked() -> None:
    register_url_secrets("postgresql://ada:p@hunter2@127.0.0.1:1/d")
    assert redact("failed to resolve host 'hunter2@127.0.0.1'") == "failed to resolve host '***@127.0.0.1'"


@pytest.mark.parametrize("secret", ["p@canary", "ca/nary", "12#canary", "p[canary", "p?canary"])
def test_url_with_an_unquoted_character_in_its_password_is_refused(secret: str) -> None:
    problem = problem_of_database_url(f"postgresql://ada:{secret}@127.0.0.1:1/d", secrets=True)
    assert problem is not None and "%40 for @" in problem and "nary" not in problem


@pytest.mark.parametrize(
    "url", ["file://ada:canary@store/x", "s3://b/x?access_key=A&secret_key=canary", "abfs://x?sig=canary"]
)
def test_folder_with_a_secret_in_its_url_is_refused(url: str) -> None:
    problem = problem_of_folder(url)
    assert problem is not None and "canary" not in problem


def test_at_in_the_name_of_a_user_is_accepted() -> None:
    assert problem_of_database_url("postgresql://ada@server:x@host/db", secrets=True) is None
    assert redact("postgresql://ada@server:canary@host/db") == "postgresql://ada@server:***@host/db"
