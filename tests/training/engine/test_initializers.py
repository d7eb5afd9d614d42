from __future__ import annotations

from typing import Any

import pytest

from sweeper.training.engine.initializers import INITIALIZERS, draw

CLASSES = {name: "".join(part.title() for part in name.split("_")) for name in INITIALIZERS}


@pytest.mark.parametrize("name", [name for name in INITIALIZERS if name != "orthogonal"])
def test_values_have_the_spread_of_keras(name: str, tensorflow: Any) -> None:
    import keras
    import numpy as np

    ours, shape = draw(name, (80, 300), seed=1), (80, 300)
    theirs = np.array(getattr(keras.initializers, CLASSES[name])(seed=1)(shape))
    assert ours.dtype == np.float32 and ours.shape == shape
    assert ours.std() == pytest.approx(theirs.std(), rel=0.02) and abs(ours.mean()) < 0.01 * abs(ours).max()
    assert abs(ours).max() == pytest.approx(abs(theirs).max(), rel=0.01)


@pytest.mark.parametrize("shape", [(6, 24), (24, 6), (5, 5)])
def test_orthogonal_rows_or_columns_are_orthonormal(shape: tuple[int, int]) -> None:
    import numpy as np

    values = draw("orthogonal", shape, seed=0)
    product = values @ values.T if shape[0] < shape[1] else values.T @ values
    np.testing.assert_allclose(product, np.eye(min(shape)), atol=1e-6)


def test_seed_gives_the_same_values_in_every_version() -> None:
    assert draw("glorot_uniform", (2, 3), seed=5)[0].tolist() == pytest.approx([0.6682279, 0.6746645, 0.0335766])
