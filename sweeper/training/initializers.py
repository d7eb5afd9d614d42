"""Keras's initializers, by their names, in NumPy: equal numbers on every backend, and nothing to compile."""

from __future__ import annotations

import math
from typing import Any

Array = Any
Generator = Any

# Of Keras's VarianceScaling: scale, which fan, and the distribution.
_SCALINGS = {
    "glorot_uniform": (1.0, "average", "uniform"),
    "glorot_normal": (1.0, "average", "normal"),
    "he_uniform": (2.0, "in", "uniform"),
    "he_normal": (2.0, "in", "normal"),
    "lecun_uniform": (1.0, "in", "uniform"),
    "lecun_normal": (1.0, "in", "normal"),
}
INITIALIZERS = (*_SCALINGS, "orthogonal")

_CUT_DEVIATION = 0.87962566103423978
"""The standard deviation of a standard normal distribution that is cut at -2 and 2."""


def draw(name: str, shape: tuple[int, int], seed: int) -> Array:
    """Fresh values of a matrix, float32."""
    import numpy as np

    rng = np.random.default_rng(seed)
    values = _orthogonal(shape, rng) if name == "orthogonal" else _scaled(shape, rng, *_SCALINGS[name])
    return values.astype(np.float32)


def _scaled(shape: tuple[int, int], rng: Generator, scale: float, fan: str, distribution: str) -> Array:
    variance = scale / (shape[0] if fan == "in" else sum(shape) / 2)
    if distribution == "uniform":
        limit = math.sqrt(3 * variance)
        return rng.uniform(-limit, limit, shape)
    values = rng.standard_normal(shape)
    while (outside := abs(values) > 2).any():
        values[outside] = rng.standard_normal(outside.sum())
    return values * math.sqrt(variance) / _CUT_DEVIATION


def _orthogonal(shape: tuple[int, int], rng: Generator) -> Array:
    """Saxe, McClelland, Ganguli 2014, arXiv:1312.6120."""
    import numpy as np

    q, r = np.linalg.qr(rng.standard_normal((max(shape), min(shape))))
    q = q * np.sign(np.diag(r))
    return q if shape[0] >= shape[1] else q.T
