"""What runs a sweep: versions of packages, the user, the commit of the working directory."""

from __future__ import annotations

import getpass
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

GIT_TIMEOUT_S = 2.0


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and of the given packages. Skips packages that are not installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def user() -> str | None:
    """Return the name of the user; None in a container whose user has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None


def commit() -> str | None:
    """Return the git commit of the working directory; None outside a repository or without git."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=GIT_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None
