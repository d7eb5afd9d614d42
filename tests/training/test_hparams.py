from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from sweeper.training.engine.initializers import INITIALIZERS
from sweeper.training.engine.ops import ACTIVATIONS
from sweeper.training.engine.optimizers import OPTIMIZERS, SCHEDULES
from sweeper.training.engine.recurrence import CELLS
from sweeper.training.hparams import RNNParams

TABLES: dict[str, Mapping[str, Any]] = {
    "cell": CELLS,
    "activation": ACTIVATIONS,
    "kernel_initializer": INITIALIZERS,
    "recurrent_initializer": INITIALIZERS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
}


@pytest.mark.parametrize("field", TABLES)
def test_hyperparameter_allows_the_names_of_its_table(field: str) -> None:
    names = list(TABLES[field])
    assert [getattr(RNNParams(**{field: name}), field) for name in names] == names
    assert RNNParams.model_json_schema()["properties"][field]["enum"] == names
    with pytest.raises(ValidationError, match=f"'{names[0]}'"):
        RNNParams(**{field: "nonsense"})


def test_unknown_hyperparameter_is_refused() -> None:
    with pytest.raises(ValidationError, match="learning_rat"):
        RNNParams(learning_rat=0.1)  # type: ignore[call-arg]


def test_every_hyperparameter_has_a_description_and_a_default() -> None:
    assert RNNParams().model_dump()
    assert all(field.description for field in RNNParams.model_fields.values())


@pytest.mark.parametrize("field, value", [("units", 0), ("dropout", 1.0), ("learning_rate", 0.0), ("layers", 9)])
def test_value_out_of_bounds_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValidationError, match=field):
        RNNParams(**{field: value})


def test_importing_the_training_package_loads_nothing_heavy() -> None:
    code = "import sys, sweeper.training; print({'tensorflow', 'keras', 'numpy', 'sklearn', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
