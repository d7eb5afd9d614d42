from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeper.search.parzen import ParameterTable, log_density

SPACE: dict[str, BaseDistribution] = {
    "rate": FloatDistribution(1e-5, 1.0, log=True),
    "dropout": FloatDistribution(0.0, 0.5),
    "tenths": FloatDistribution(0.0, 1.0, step=0.1),
    "units": IntDistribution(32, 256, log=True),
    "layers": IntDistribution(1, 4),
    "wide": IntDistribution(1, 10_000),
    "optimizer": CategoricalDistribution(["sgd", "rmsprop", "adam"]),
}


def model_of(count: int, seed: int) -> Any:
    """Return Optuna's model of random points: half of them anywhere, half at the edges of the space."""
    rng = np.random.default_rng(seed)
    observed = {}
    for name, domain in SPACE.items():
        values = rng.choice([0.0, 1.0], count) if isinstance(domain, CategoricalDistribution) else None
        low, high = getattr(domain, "low", 0.0), getattr(domain, "high", 0.0)
        if values is None:
            values = np.where(rng.random(count) < 0.5, rng.uniform(low, high, count), rng.choice([low, high], count))
            step = getattr(domain, "step", None)
            values = values if step is None else low + np.round((values - low) / step) * step
        observed[name] = values
    return _ParzenEstimator(observed, SPACE, TPESampler()._parzen_estimator_parameters)


@pytest.mark.parametrize("count", [0, 1, 40, 700])
def test_densities_are_those_of_optuna(count: int) -> None:
    model = model_of(count, seed=count)
    points = model.sample(np.random.RandomState(1), 50)
    edges = {name: np.array([values.min(), values.max()]) for name, values in points.items()}
    for samples in (points, edges):
        mixture, rows = model._mixture_distribution, np.array([*samples.values()]).T
        found = log_density(rows, mixture.weights, mixture.distributions)
        assert np.allclose(found, model.log_pdf(samples), rtol=1e-9, atol=1e-9)
        assert np.isfinite(found).all() and len(set(found)) > 1


def trial_of(number: int, params: dict[str, Any], state: TrialState = TrialState.RUNNING) -> FrozenTrial:
    value = 0.5 if state == TrialState.COMPLETE else None
    trial = create_trial(state=state, value=value, params=params, distributions={name: SPACE[name] for name in params})
    trial.number = number
    return trial


def test_trial_is_converted_again_only_when_it_has_changed() -> None:
    looked_at = []

    def params_of(trial: FrozenTrial) -> dict[str, Any]:
        looked_at.append(trial.number)
        return trial.params

    table = ParameterTable({"units": SPACE["units"], "optimizer": SPACE["optimizer"]}, params_of)
    ended = trial_of(0, {"units": 64, "optimizer": "adam"}, TrialState.COMPLETE)
    trials = [ended, trial_of(1, {"units": 32}), trial_of(2000, {"units": 128, "optimizer": "sgd"})]
    by_number = {trial.number: trial for trial in trials}
    seen: Any = by_number
    for _ in range(2):
        columns = table.columns([0, 1, 2000], seen)
        assert columns["units"].tolist() == [64, 128] and columns["optimizer"].tolist() == [2, 0]
    assert looked_at == [0, 1, 2000]
    by_number[1] = trial_of(1, {"units": 32, "optimizer": "rmsprop"})
    by_number[2000] = trial_of(2000, {"units": 128})
    assert table.columns([0, 1, 2000], seen)["units"].tolist() == [64, 32] and looked_at[3:] == [1, 2000]
