"""What runs a sweep: versions of packages, the user, the commit of the working directory; and TensorFlow, quietly."""

from __future__ import annotations

import getpass
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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


def processor() -> str:
    """Return the name of the processor, on which the last bits of results may depend; "" if it is unknown."""
    try:
        named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        named = None
    return named[1].strip() if named else platform.processor()


def user() -> str | None:
    """Return the name of the user; None in a container whose user has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None


def commit(folder: Path | None = None) -> str | None:
    """Return the git commit of a folder, by default the current one; None outside a repository or without git.

    It ends in `-dirty` if a file that git knows has changed since.
    """
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=GIT_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None


_CHATTER = re.compile(
    rb"WARNING: All log messages before absl|To enable the following instructions|"
    rb"[IW]0000 |[IW]\d{4} \d\d:\d\d:\d\d\.\d+ |E0000 .*cuInit"
)


@contextmanager
def without_chatter() -> Iterator[None]:
    """Catch what C++ code writes to stderr during the block, and pass it on afterwards, except TensorFlow's greetings.

    TensorFlow writes them before its logging reads TF_CPP_MIN_LOG_LEVEL.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            for line in held:
                if not _CHATTER.match(line):
                    os.write(2, line)
