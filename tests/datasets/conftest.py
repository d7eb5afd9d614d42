from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the data of this machine, and send every download to a proxy that refuses connections."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("SWEEPER_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")


@pytest.fixture(scope="session")
def published() -> dict[str, Any]:
    """Return arrays of MNIST's shapes, nearly empty, so that they compress well."""
    arrays = {
        "x_train": np.zeros((60_000, 28, 28), np.uint8),
        "y_train": np.arange(60_000).astype(np.uint8) % 10,
        "x_test": np.ones((10_000, 28, 28), np.uint8),
        "y_test": np.arange(10_000).astype(np.uint8) % 10,
    }
    arrays["x_train"][:, 0, 0] = arrays["y_train"]
    return arrays
