"""A sample sweep file, changed line by line, and the messages about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.core.errors import SpecError
from sweeper.spec import load_sweep

SAMPLE = """\
name: lstm
trainable: sweeper.training:train_rnn
dataset:   {type: mnist, fallback: digits}
objective: {metric: val_accuracy, direction: maximize}
budget:    {trials: 24, epochs: 8, reports_per_epoch: 4, parallel: auto, timeout: 30m, max_failures: 3}
resources: {cpus: 1, gpus: 0}
sampler:   {type: tpe, seed: 0}
pruner:    {type: successive_halving, min_epochs: 0.25, reduction_factor: 4}
space:
  cell: lstm
  units:         {type: int, low: 32, high: 256, log: true}
  learning_rate: {type: float, low: 1e-4, high: 1e-1, log: true}
  batch_size:    {type: categorical, choices: [64, 128, 256]}
  optimizer:     {type: categorical, choices: [sgd, rmsprop, adam]}
  momentum:      {type: float, low: 0.0, high: 0.99, when: {optimizer: sgd}}
enqueue: [{units: 128, learning_rate: 0.001, batch_size: 128, optimizer: adam}]
tracking:  {experiment: mnist-rnn, model: mnist-rnn}
storage:   sqlite:///sweeper.db
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes the sample file with a line replaced (by its first word), added or dropped."""

    def write(line: str = "", *, drop: str = "") -> Path:
        lines = SAMPLE.splitlines()
        word = line.partition(":")[0] + ":"
        if "space" in (drop, line[:5]):
            lines = [old for old in lines if not old.startswith("  ")]
        places = [i for i, old in enumerate(lines) if line and old.startswith(word)]
        lines = [line if i in places else old for i, old in enumerate(lines) if not (drop and old.startswith(drop))]
        if line and not places:
            lines.append(line)
        path = tmp_path / "lstm.yaml"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def refusal(path: Path, overrides: dict[str, Any] | None = None) -> list[str]:
    """Return the messages about a file that is refused."""
    with pytest.raises(SpecError) as caught:
        load_sweep(path, overrides)
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()
