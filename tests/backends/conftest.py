"""The Python that runs a Ray cluster with its dashboard, which the Jobs API is part of."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def cluster_python() -> Path:
    """An environment on top of this one, made on first use: with the dashboard in this one, each Ray starts slower."""
    folder = Path(sys.prefix) / "cluster"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        packages = subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], text=True
        )
        link = f"import site; site.addsitedir({sysconfig.get_paths()['purelib']!r})\n"
        Path(packages.strip(), "base.pth").write_text(link)
        command = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", "ray[default]"]
        if subprocess.run(command, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}).returncode:
            pytest.skip("Ray's dashboard cannot be installed here")
        (folder / "ready").touch()
    return python
