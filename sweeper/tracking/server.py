"""A question to an MLflow server before it is used, asked as MLflow's client would, without an import of MLflow."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.core.errors import InputError, TrackingError
from sweeper.core.secrets import redact
from sweeper.core.text import first_line

if TYPE_CHECKING:
    import requests

ANSWER_TIMEOUT_S = 3.0
"""Longest wait for a server, in seconds."""


def check_server(uri: str, experiment: str | None) -> str | None:
    """Ask a server for the experiment, as MLflow's client does."""
    import requests

    shown = redact(uri)
    try:
        answer = requests.get(
            f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/get-by-name",
            {"experiment_name": experiment or "Default"},
            headers=_credentials(),
            timeout=ANSWER_TIMEOUT_S,
            verify=_verification(),
            cert=os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH"),
        )
    except requests.exceptions.SSLError as error:
        raise TrackingError(f"MLflow at {shown}: no secure connection ({short_reason(error)})") from error
    except (requests.exceptions.InvalidURL, UnicodeError) as error:  # of the server, or of a proxy
        raise InputError(f"MLflow at {shown} cannot be asked: {short_reason(error)}") from error
    except requests.exceptions.ProxyError as error:
        if re.search(r"40[37]", str(error)):
            raise TrackingError(f"MLflow at {shown}: {short_reason(error)}") from error
        return short_reason(error)
    except (requests.RequestException, OSError) as error:
        return short_reason(error)
    return _judge_answer(answer, shown, experiment)


def _judge_answer(answer: requests.Response, shown: str, experiment: str | None) -> str | None:
    code, via = answer.status_code, proxy_of(answer.request.url)
    through = f" through the proxy {via}" if via else ""
    if code in (408, 429) or code >= 500:
        return f"it answers {code}{through}"
    if code == 407:
        raise TrackingError(f"MLflow at {shown}: the proxy {via} asks for credentials (407)")
    if code in (401, 403):
        if _is_signed():  # by a plugin of MLflow's client, which was not asked here
            return None
        raise TrackingError(
            f"MLflow at {shown} refuses access{through} ({code}); set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict) or not {"experiment", "error_code"} & found.keys():
        kind = answer.headers.get("Content-Type", "nothing").partition(";")[0]
        raise TrackingError(f"what answers at {shown}{through} is not MLflow ({code}, {kind}); is its path right?")
    if experiment and found.get("experiment", {}).get("lifecycle_stage") == "deleted":
        raise InputError(f"MLflow at {shown}: {deleted_experiment(experiment)}")
    return None


def deleted_experiment(experiment: str) -> str:
    """Return the message about an experiment that was deleted; MLflow keeps its name reserved."""
    return f"the experiment {experiment!r} was deleted; restore it, or choose another tracking.experiment"


_REASONS = {
    "ConnectionRefused": "connection refused",
    "Timeout": "no answer in time",
    "NameResolution": "unknown host",
    "gaierror": "unknown host",
}
"""Reasons by a part of the name of an error's class."""

_ERROR_CLASS = re.compile(r"^\([\w.]+\) ")
"""The class of a driver's error, with which SQLAlchemy begins its message."""

_TUNNEL = re.compile(r"Tunnel connection failed: ([^'\")]+)")


def short_reason(error: BaseException) -> str:
    """Return the reason for an error of MLflow in one short line: it names a proxy that failed, but no secret."""
    causes = list(_causes(error))
    kinds = " ".join(type(cause).__name__ for cause in causes)
    text = next((reason for kind, reason in _REASONS.items() if kind in kinds), None)
    if text is None or isinstance(error, TrackingError):
        text = _ERROR_CLASS.sub("", first_line(error))
    for cause in causes:
        if type(cause).__name__ == "ProxyError" and (request := getattr(cause, "request", None)) is not None:
            refusal = _TUNNEL.search(str(cause))
            text = f"the proxy {proxy_of(request.url)} fails: {refusal[1] if refusal else text}"
    return redact(text)[:300]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def proxy_of(url: str | None) -> str | None:
    """Return the proxy that the environment names for a URL, without its password; None for a direct connection."""
    from requests.utils import get_environ_proxies, select_proxy

    proxy = select_proxy(url or "", get_environ_proxies(url or ""))
    return redact(proxy) if proxy else None


def _credentials() -> dict[str, str]:
    """Return the header that MLflow's client would send."""
    file = ConfigParser()
    file.read(Path.home() / ".mlflow" / "credentials")
    stored = dict(file["mlflow"]) if "mlflow" in file else {}
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    user, password = (os.environ.get(name) or stored.get(name.lower()) for name in names)
    if user and password:
        return {"Authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _verification() -> bool | str:
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        return False
    return os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True


def _is_signed() -> bool:
    """Return whether a plugin of MLflow's client adds credentials that are unknown here."""
    from importlib import metadata

    variables = ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4")
    plugins = metadata.entry_points(group="mlflow.request_header_provider")
    return any(os.environ.get(name) for name in variables) or bool(plugins)
