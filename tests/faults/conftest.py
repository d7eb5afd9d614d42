"""Fixtures of the campaign: one per test and seed, and a way to record a row of the table in docs/reliability.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import Campaign


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    has_its_own = any("seed" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "seed" in metafunc.fixturenames and not has_its_own:
        metafunc.parametrize("seed", metafunc.config.getoption("--seed") or [1])


@pytest.fixture
def campaign(tmp_path: Path, seed: int) -> Iterator[Campaign]:
    campaign = Campaign(tmp_path, seed)
    yield campaign
    campaign.clean_up()


@pytest.fixture
def own_tests_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a process that is forked from a server find these tests: tf2onnx installs a package `tests` too."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.fixture
def record(record_property: Callable[[str, Any], None], seed: int) -> Callable[..., None]:
    """Return a function that records a row of the table: the fault, and what happened."""

    def record(fault: str, seen: str) -> None:
        for name, value in {"fault": fault, "seen": seen, "seed": seed}.items():
            record_property(name, value)

    return record
