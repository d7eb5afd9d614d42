"""Keras's initializers in NumPy, under Keras's names: the same numbers on every backend, and nothing to compile."""

from __future__ import annotations

import math
from typing import Any

Array = Any
Generator = Any

# Arguments of Keras's VarianceScaling: scale, mode, distribution.
_SCALINGS = {
    "glorot_uniform": (1.0, "average", "uniform"),
    "glorot_normal": (1.0, "average", "normal"),
    "he_uniform": (2.0, "in", "uniform"),
    "he_normal": (2.0, "in", "normal"),
    "lecun_uniform": (1.0, "in", "uniform"),
    "lecun_normal": (1.0, "in", "normal"),
}

INITIALIZERS = (*_SCALINGS, "orthogonal")
"""Initializers that a sweep may name."""

_CUT_DEVIATION = 0.87962566103423978
"""Standard deviation of a standard normal distribution that is cut at -2 and 2."""


def draw(name: str, shape: tuple[int, ...], seed: int, *, fan_in: int | None = None) -> Array:
    """Draw initial values, float32.

    Args:
        name: one of INITIALIZERS, or `zeros`, `ones`, or `normal` for N(0, 1).
        fan_in: number of inputs that the values are scaled by, if not the first side of the shape.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    if name in ("zeros", "ones"):
        values = np.full(shape, float(name == "ones"))
    elif name == "normal":
        values = rng.standard_normal(shape)
    elif name == "orthogonal":
        values = _orthogonal(shape, rng)
    else:
        values = _scaled(shape, rng, fan_in or shape[0], *_SCALINGS[name])
    return values.astype(np.float32)


def _scaled(shape: tuple[int, ...], rng: Generator, fan_in: int, scale: float, fan: str, distribution: str) -> Array:
    variance = scale / (fan_in if fan == "in" else (fan_in + shape[-1]) / 2)
    if distribution == "uniform":
        limit = math.sqrt(3 * variance)
        return rng.uniform(-limit, limit, shape)
    values = rng.standard_normal(shape)
    while (outside := abs(values) > 2).any():
        values[outside] = rng.standard_normal(outside.sum())
    return values * math.sqrt(variance) / _CUT_DEVIATION


def _orthogonal(shape: tuple[int, ...], rng: Generator) -> Array:
    """Draw an orthogonal matrix (Saxe, McClelland, Ganguli 2014, arXiv:1312.6120)."""
    import numpy as np

    q, r = np.linalg.qr(rng.standard_normal((max(shape), min(shape))))
    q = q * np.sign(np.diag(r))
    return q if shape[0] >= shape[1] else q.T
