"""A campaign for each test and seed, and what it found, for the table of docs/reliability.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import Campaign


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", metafunc.config.getoption("--seed") or [1])


@pytest.fixture
def campaign(tmp_path: Path, seed: int) -> Iterator[Campaign]:
    campaign = Campaign(tmp_path, seed)
    yield campaign
    campaign.clean_up()


@pytest.fixture
def say(record_property: Callable[[str, Any], None], seed: int) -> Callable[..., None]:
    """Note for the table what the fault was and what happened."""

    def say(fault: str, seen: str) -> None:
        for name, value in {"fault": fault, "seen": seen, "seed": seed}.items():
            record_property(name, value)

    return say
