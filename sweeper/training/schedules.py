"""Learning-rate schedules: the share of the learning rate that applies at a given progress through the trial."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sweeper.training.hparams import RNNParams


def _constant(progress: float, params: RNNParams) -> float:
    return 1.0


def _linear(progress: float, params: RNNParams) -> float:
    return 1.0 - progress


def _cosine(progress: float, params: RNNParams) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _step(progress: float, params: RNNParams) -> float:
    return params.decay ** int(progress * (params.drops + 1))


SCHEDULES = {"constant": _constant, "linear": _linear, "cosine": _cosine, "step": _step}


def learning_rate(params: RNNParams, step: int, total: int) -> float:
    """The learning rate of gradient step `step` (0 is the first) of `total`: a linear warm-up, then the schedule."""
    warm = round(params.warmup * total)
    if step < warm:
        return params.learning_rate * (step + 1) / (warm + 1)
    progress = (step - warm) / max(total - warm, 1)
    return params.learning_rate * SCHEDULES[params.schedule](progress, params)
