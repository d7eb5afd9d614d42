"""Shards of a batch: with several CPUs, its parts go through the network side by side.

Threads within one operation do not help at these sizes, and the operations of a recurrent network follow one after the
other. The parts of a batch do not depend on each other, so each becomes a branch of the graph, on a thread of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeper.training.engine.ops import dropout_mask
from sweeper.training.engine.recurrence import CELLS

if TYPE_CHECKING:
    from sweeper.training.hparams import RNNParams

Tensor = Any


MIN_SHARD = 1_500
"""Least samples of a shard, times the units and the gates of a layer: with fewer, the threads cost what they save."""


def shards_for(params: RNNParams, cpus: int) -> int:
    """Return into how many shards a batch is divided: one for each CPU, or as many as are large enough."""
    work = params.batch_size * params.units * CELLS[params.cell].gates
    return max(1, min(cpus, params.batch_size, work // MIN_SHARD))


@dataclass(frozen=True, eq=False)
class Rows:
    """Some consecutive samples of a batch of `total`."""

    start: Tensor
    stop: Tensor
    total: Tensor

    def of(self, x: Tensor) -> Tensor:
        """Return these rows of `[n, ...]`."""
        return x[self.start : self.stop]


def split(total: Tensor, shards: int) -> Iterator[Rows | None]:
    """Divide a batch as evenly as whole samples allow; None stands for a batch in one piece."""
    if shards == 1:
        yield None
        return
    for shard in range(shards):
        yield Rows(total * shard // shards, total * (shard + 1) // shards, total)


@dataclass(frozen=True, eq=False)
class Dropout:
    """Draws the dropout masks of a batch, or of some of its rows: those are the rows of the mask of the whole."""

    rates: Mapping[str, Tensor]
    rows: Rows | None = None

    def mask(self, shape: tuple[Any, ...], name: str, seed: Tensor) -> Tensor:
        """Draw the factors of a dropout.

        Args:
            shape: of the mask, `[..., n, features]`, for the samples at hand.
            name: which of the rates.
            seed: state of the generator; see `ops.dropout_mask`.
        """
        if self.rows is None:
            return dropout_mask(shape, self.rates[name], seed)
        # Each branch asks for the same mask of all samples. TensorFlow draws it once: equal operations are merged.
        *leading, _, features = shape
        whole = dropout_mask((*leading, self.rows.total, features), self.rates[name], seed)
        return whole[..., self.rows.start : self.rows.stop, :]
