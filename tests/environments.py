"""Virtual environments for programs that only tests need."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def beside(name: str, *requirements: str, on_top: bool = True) -> Path:
    """Return the Python of a virtual environment with these packages, created on first use.

    With `on_top`, it has all packages of this environment too. Skips the test if the packages cannot be installed.
    """
    folder = Path(sys.prefix) / name
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        where = [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
        packages = Path(subprocess.check_output(where, text=True).strip())
        command = [python, "-m", "pip", "install", "--quiet"]
        if on_top:
            link = f"import site; site.addsitedir({sysconfig.get_paths()['purelib']!r})\n"
            (packages / "base.pth").write_text(link)
            command += ["--constraint", ROOT / "constraints.txt"]
        environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        if subprocess.run([*command, *requirements], env=environment).returncode:
            pytest.skip(f"{', '.join(requirements)} cannot be installed")
        (folder / "ready").touch()
    return python
