from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from pydantic import TypeAdapter

from sweeper.core.errors import InputError
from sweeper.search.grid import untried_points
from sweeper.search.optuna_internals import trial_id
from sweeper.search.samplers import Sampler
from sweeper.search.space import Domain, Space, grid, suggest

optuna.logging.set_verbosity(optuna.logging.WARNING)

KINDS = ("tpe", "random", "grid", "qmc", "cmaes", "nsga2") + (("gp",) if find_spec("torch") else ())


def sampler_of(**declared: Any) -> Any:
    return TypeAdapter(Sampler).validate_python(declared)


def space_of(**declared: Any) -> Space:
    return TypeAdapter(dict[str, Domain]).validate_python(declared)


STEPPED = space_of(
    rate={"type": "float", "low": 0, "high": 1, "step": 0.25},
    units={"type": "int", "low": 1, "high": 4},
    optimizer={"type": "categorical", "choices": ["sgd", "adam"]},
    momentum={"type": "categorical", "choices": [0.0, 0.9], "when": {"optimizer": "sgd"}},
    cell="lstm",
)
SMOOTH = space_of(
    x={"type": "float", "low": 0, "high": 1},
    y={"type": "float", "low": 1e-4, "high": 1, "log": True},
    z={"type": "int", "low": 1, "high": 1000},
)


def run(study: optuna.Study, space: Space, count: int) -> list[dict[str, Any]]:
    points = []
    for _ in range(count):
        trial = study.ask()
        points.append(suggest(trial, space))
        study.tell(trial, sum(value for value in points[-1].values() if not isinstance(value, str)))
    return points


@pytest.mark.parametrize("kind", KINDS)
def test_points_are_in_the_space_and_follow_the_seed(kind: str) -> None:
    sampler = sampler_of(type=kind)
    runs = [
        run(optuna.create_study(sampler=sampler.build(STEPPED, seed=seed, trials=15)), STEPPED, 15)
        for seed in (0, 0, 1)
    ]

    assert all(STEPPED[name].contains(value) for point in runs[0] for name, value in point.items())
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "grid"])
def test_resumed_sweep_does_not_repeat_its_first_points(kind: str) -> None:
    sampler = sampler_of(type=kind)
    study = optuna.create_study(sampler=sampler.build(SMOOTH, seed=0))
    before = run(study, SMOOTH, 5)
    study.sampler = sampler.build(SMOOTH, seed=0)
    after = run(study, SMOOTH, 5)

    assert all(point not in before for point in after)


@pytest.mark.parametrize("qmc_type", ["sobol", "halton"])
def test_resumed_qmc_continues_its_sequence(qmc_type: str) -> None:
    sampler = sampler_of(type="qmc", qmc_type=qmc_type)
    whole = run(optuna.create_study(sampler=sampler.build(SMOOTH, seed=3)), SMOOTH, 9)
    study = optuna.create_study(sampler=sampler.build(SMOOTH, seed=3))
    parts = run(study, SMOOTH, 4)
    study.sampler = sampler.build(SMOOTH, seed=3)
    parts += run(study, SMOOTH, 5)

    assert parts == whole


def test_seed_of_the_sampler_is_a_number() -> None:
    assert sampler_of(type="tpe", seed=3).seed == 3 and sampler_of(type="tpe").seed is None


@pytest.mark.parametrize(("trials", "startup"), [(None, 10), (6, 4), (24, 8), (300, 10)])
def test_random_trials_at_the_start_are_a_share_of_the_budget(trials: int | None, startup: int) -> None:
    built: Any = sampler_of(type="tpe").build(SMOOTH, seed=0, trials=trials)

    assert built.sampler._n_startup_trials == startup


def test_grid_gives_every_point_once_despite_interruptions_and_failures() -> None:
    sampler = sampler_of(type="grid")
    study = optuna.create_study(sampler=sampler.build(STEPPED, seed=0))
    points = run(study, STEPPED, 20)
    running = study.ask()
    points.append(suggest(running, STEPPED))
    failed = study.ask()
    points.append(suggest(failed, STEPPED))
    study.tell(failed, state=TrialState.FAIL)
    study.sampler = sampler.build(STEPPED, seed=0)
    points += run(study, STEPPED, 60 - 22)

    assert len(points) == 60
    assert sorted(map(repr, points)) == sorted(map(repr, grid(STEPPED)))
    assert suggest(optuna.Trial(study, trial_id(running)), STEPPED) == points[20]


def test_start_point_counts_as_a_point_of_the_grid() -> None:
    study = optuna.create_study(sampler=sampler_of(type="grid").build(STEPPED, seed=0))
    start: dict[str, Any] = {"rate": 0.75, "units": 3, "optimizer": "sgd"}
    study.enqueue_trial(start)
    study.enqueue_trial(start)
    points = run(study, STEPPED, 60)

    assert points[0].items() >= start.items() and points[1].items() >= start.items()
    assert sorted(map(repr, points)) == sorted(map(repr, grid(STEPPED)))


def test_grid_skips_what_another_sampler_or_seed_has_run() -> None:
    study = optuna.create_study(sampler=sampler_of(type="random").build(STEPPED, seed=0))
    points = run(study, STEPPED, 15)
    for seed, count in ((1, 20), (2, 60 - 20 - len({repr(point) for point in points}))):
        study.sampler = sampler_of(type="grid").build(STEPPED, seed=seed)
        points += run(study, STEPPED, count)

    assert sorted({repr(point) for point in points}) == sorted(map(repr, grid(STEPPED)))
    assert untried_points(STEPPED, points[:15]) == 60 - len({repr(point) for point in points[:15]})
    assert untried_points(STEPPED, [{}, {"rate": 0.25}]) == 60


def test_exhausted_grid_starts_again() -> None:
    space = space_of(x={"type": "int", "low": 1, "high": 3})
    study = optuna.create_study(sampler=sampler_of(type="grid").build(space, seed=0))

    assert sorted(point["x"] for point in run(study, space, 3)) == [1, 2, 3]
    assert run(study, space, 2)[0]["x"] in (1, 2, 3)


@pytest.mark.parametrize(
    ("kind", "space", "message"),
    [
        ("grid", SMOOTH, "a grid needs a step for x, y; add step:, or choose type: qmc"),
        (
            "grid",
            space_of(**{f"p{i}": {"type": "int", "low": 1, "high": 1000} for i in range(4)}),
            "the grid has 1,000,000,000,000 points, more than 10,000; choose type: qmc",
        ),
        (
            "grid",
            space_of(
                a={"type": "categorical", "choices": [1, 2]},
                b={"type": "int", "low": 1, "high": 10**6, "when": {"a": 1}},
            ),
            "the grid has too many points",
        ),
        ("grid", STEPPED, None),
        ("cmaes", SMOOTH, None),
        ("cmaes", space_of(x={"type": "float", "low": 0, "high": 1}, c="lstm"), "needs two of them; choose type: tpe"),
        ("tpe", SMOOTH, None),
    ],
)
def test_sampler_refuses_a_space_that_it_cannot_search(kind: str, space: Space, message: str | None) -> None:
    objection = sampler_of(type=kind).unsupported_reason(space)

    assert objection is None if message is None else message in objection


@pytest.mark.skipif(find_spec("torch") is not None, reason="torch is installed")
def test_missing_package_is_reported_with_its_remedy() -> None:
    with pytest.raises(InputError, match=r"needs: pip install 'sweeper\[gp\]'"):
        sampler_of(type="gp").build(SMOOTH, seed=0)


def test_options_that_optuna_calls_experimental_do_not_warn() -> None:
    sampler = sampler_of(type="cmaes", with_margin=True, consider_pruned_trials=True, popsize=4)

    run(optuna.create_study(sampler=sampler.build(SMOOTH, seed=0)), SMOOTH, 12)


def test_resumed_grid_trial_keeps_its_point() -> None:
    study = optuna.create_study(sampler=sampler_of(type="grid").build(STEPPED, seed=0))
    first = suggest(study.ask(), STEPPED)
    assert suggest(optuna.Trial(study, 0), STEPPED) == first
    others = [suggest(study.ask(), STEPPED) for _ in range(3)]
    assert first not in others


def run_two_goals(study: optuna.Study, count: int) -> list[dict[str, Any]]:
    """Run trials of two goals that pull x apart, and between which y and z decide nothing."""
    points = []
    for _ in range(count):
        trial = study.ask()
        points.append(suggest(trial, SMOOTH))
        study.tell(trial, [points[-1]["x"] ** 2, (points[-1]["x"] - 0.5) ** 2])
    return points


@pytest.mark.parametrize("kind", [kind for kind in KINDS if sampler_of(type=kind).TAKES_GOALS and kind != "grid"])
def test_sampler_searches_for_several_goals(kind: str) -> None:
    sampler = sampler_of(type=kind)
    runs = []
    for seed in (0, 0, 1):
        study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler.build(SMOOTH, seed=seed, trials=20))
        runs.append(run_two_goals(study, 20))

    assert all(SMOOTH[name].contains(value) for point in runs[0] for name, value in point.items())
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("kind", ["tpe", "nsga2"])
def test_front_of_two_goals_is_found_more_often_than_by_chance(kind: str) -> None:
    found = {}
    for name in (kind, "random"):
        built = sampler_of(type=name).build(SMOOTH, seed=0, trials=60)
        points = run_two_goals(optuna.create_study(directions=["minimize"] * 2, sampler=built), 60)
        found[name] = sum(point["x"] <= 0.5 for point in points[20:])  # such points are on the front

    assert found[kind] > found["random"]


@pytest.mark.parametrize(("trials", "size"), [(None, 50), (6, 4), (40, 8), (1000, 50)])
def test_generation_is_a_share_of_the_budget(trials: int | None, size: int) -> None:
    built: Any = sampler_of(type="nsga2").build(SMOOTH, seed=0, trials=trials)

    assert built.sampler.population_size == size
    assert sampler_of(type="nsga2").random_trials(trials or 1000) == min(size, trials or 1000)
    assert sampler_of(type="nsga2", population_size=3).build(SMOOTH, seed=0).sampler.population_size == 3


def test_resumed_nsga2_has_the_generations_of_one_run() -> None:
    sampler = sampler_of(type="nsga2", population_size=4)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler.build(SMOOTH, seed=3))
    whole = run_two_goals(study, 16)
    generations = [trial.system_attrs["NSGAIISampler:generation"] for trial in study.trials]
    parts = optuna.create_study(directions=["minimize"] * 2, sampler=sampler.build(SMOOTH, seed=3))
    points = run_two_goals(parts, 5)
    parts.sampler = sampler.build(SMOOTH, seed=3)

    assert points + run_two_goals(parts, 11) == whole
    assert generations == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4, "also trials before the first result count"


@pytest.mark.parametrize("count", [10, 60])
def test_tpe_of_several_goals_models_the_newest_trials_and_the_front(count: int) -> None:
    from sweeper.search.bounded import BoundedTPESampler

    study = optuna.create_study(directions=["minimize"] * 2)
    for number in range(count):
        x = 0.0 if number == 3 else 1 + number / 100
        distribution = optuna.distributions.FloatDistribution(0, 2)
        study.add_trial(optuna.create_trial(values=[x, x], params={"x": x}, distributions={"x": distribution}))
    sampler = BoundedTPESampler(n_startup_trials=0, modelled=20)
    for _ in range(2):
        sampler.infer_relative_search_space(study, study.trials[0])
        part = sampler._ended_part(study)
        numbers = [trial.number for trial in part._get_trials(states=(TrialState.COMPLETE,))]  # type: ignore[attr-defined]
        assert numbers == (list(range(10)) if count == 10 else [3, *range(40, 60)])
