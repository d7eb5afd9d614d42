"""Runs trials on a worker: the trainable in a thread of its own, one event at a time. Knows no Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from sweeper.worker.task import Task


def task_from(config: Mapping[str, Any]) -> Task:
    """The task in a Ray Tune config, see `as_config`."""
    return Task(**{field.name: config[field.name] for field in fields(Task)})


def as_config(task: Task) -> dict[str, Any]:
    """A task as a Ray Tune config: plain values, so that Ray's own views can show them."""
    return asdict(task)
