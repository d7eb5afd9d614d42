"""The replay of searches over tables: it decides as real sweeps do, and counts what it should."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.goals import CONTENDERS, hypervolume, replay
from benchmarks.replay.__main__ import SHARES, interval, main, search
from benchmarks.replay.candidates import distance
from benchmarks.replay.recipes import RECIPES, Declared, OneEpoch, Oracle, RayAsha
from benchmarks.replay.search import StudySearch
from benchmarks.replay.table import Row, Table
from sweeper.analysis.forecast.clock import Clock
from sweeper.analysis.forecast.played import PlayedStudy
from sweeper.search.space import check_point
from sweeper.spec.sweep import load_sweep
from sweeper.study.open import read_study

REPORTS = 12

TRAIN = """
import math

def value(height, rate, step):
    return height * (1 - math.exp(-rate * step))

def train(params, trial):
    while trial.step < trial.reports:
        score = value(params["height"], params["rate"], trial.step + 1)
        trial.report(score=score, checkpoint=lambda folder: (folder / "step").write_text(str(trial.step)))
"""

SWEEP: dict[str, Any] = {
    "name": "real",
    "trainable": "curves:train",
    "objective": {"metric": "score"},
    "budget": {"trials": 20, "epochs": REPORTS, "parallel": 1},
    "space": {"height": {"type": "float", "low": 0, "high": 1}, "rate": {"type": "float", "low": 0.05, "high": 1}},
    "tracking": {"model": None},
}

REAL: dict[str, dict[str, Any]] = {
    "promotion": {"type": "promotion", "min_reports": 1, "reduction_factor": 2},
    "promotion by thirds": {"type": "promotion", "min_reports": 1, "reduction_factor": 3},
    "successive_halving": {"type": "successive_halving", "min_reports": 1, "reduction_factor": 2},
    "median": {"type": "median", "n_startup_trials": 2},
    "hyperband": {"type": "hyperband", "min_reports": 1, "reduction_factor": 2},
}


def value(height: float, rate: float, step: int) -> float:
    return height * (1 - math.exp(-rate * step))


def table(count: int = 30, seed: int = 0) -> Table:
    draw = random.Random(seed)
    points = [{"height": draw.random(), "rate": draw.uniform(0.05, 1)} for _ in range(count)]
    return Table("curves", tuple(map(curve_of, points)), space=SWEEP["space"])


def curve_of(point: dict[str, Any]) -> Row:
    return Row(point, tuple(value(**point, step=step) for step in range(1, REPORTS + 1)))


@pytest.mark.long
@pytest.mark.parametrize("sampler", ["random", "auto"])
@pytest.mark.parametrize("kind", REAL)
def test_replay_decides_as_a_real_sweep(kind: str, sampler: str, tmp_path: Path) -> None:
    """With a sampler that has a model, what it proposes is compared too; a table would replace it by its own rows."""
    (tmp_path / "curves.py").write_text(TRAIN)
    (tmp_path / "real.yaml").write_text(json.dumps(SWEEP | {"pruner": REAL[kind], "sampler": {"type": sampler}}))
    command = [sys.executable, "-m", "sweeper", "run", "real.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    real = read_study("real", f"sqlite:///{tmp_path}/sweeper.db")
    assert any(row.state == "PRUNED" for row in real.rows())

    rows = tuple(curve_of(row.params) for row in real.rows())
    played = Table("real", rows, space=SWEEP["space"])
    in_order = list(range(len(rows)))
    replay = StudySearch(played, real.sweep, in_order) if sampler == "random" else PlayedStudy(real.sweep)
    trained = [found.place for found in Clock(played, replay, workers=1).run()]
    assert {trial.number: (trial.state.name, trial.last_step, trial.params) for trial in replay.study.trials} == {
        row.number: (row.state, row.step, row.params) for row in real.rows()
    }
    assert replay.decisions == real.decisions()
    ended = sorted((row for row in real.rows() if row.state == "COMPLETE"), key=lambda row: row.ended or 0)
    assert trained == [row.number for row in ended]


def test_oracle_needs_one_trial_for_each_share() -> None:
    for seed in range(3):
        assert set(search(table(), "oracle", 1, seed).values()) == {(REPORTS, REPORTS)}


def test_random_needs_as_many_trials_as_there_are_before_the_best() -> None:
    curves = table()
    (best,) = curves.best(0.0)
    order = list(range(30))
    order.remove(best)
    order.insert(4, best)
    found = [trained.place for trained in Clock(curves, Declared({"type": "none"})(curves, order, 0), 1).run()]
    assert found == order
    clock = Clock(curves, Declared({"type": "none"})(curves, order, 0), 1)
    assert next(trained.reports for trained in clock.run() if trained.place == best) == 5 * REPORTS


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_every_worker_is_busy_until_nothing_is_left(workers: int) -> None:
    curves = table()
    clock = Clock(curves, Declared({"type": "none"})(curves, list(range(30)), 0), workers)
    ended = [trained.seconds for trained in clock.run()]
    assert len(ended) == 30 and clock.reports == 30 * REPORTS
    assert ended[-1] == math.ceil(30 / workers) * REPORTS
    assert clock.idle == (ended[-1] * workers) - clock.reports


def test_paused_row_goes_on_from_where_it_was() -> None:
    curves = table()
    seen: dict[int, list[int]] = {}
    recipe = Declared({"type": "promotion", "min_reports": 1, "reduction_factor": 2})(curves, list(range(30)), 0)
    report = recipe.report

    def spy(place: int, step: int, score: float) -> bool:
        seen.setdefault(place, []).append(step)
        return report(place, step, score)

    recipe.report = spy  # type: ignore[method-assign]
    list(Clock(curves, recipe, 1).run())
    assert len(seen) == 30
    assert all(steps == list(range(1, len(steps) + 1)) for steps in seen.values())
    assert sum(len(steps) == REPORTS for steps in seen.values()) >= 2


def test_row_that_diverges_ends_there_and_is_not_found(tmp_path: Path) -> None:
    rows = list(table().rows)
    rows[3] = Row(rows[3].params, (math.nan,) * REPORTS)
    curves = Table("diverging", tuple(rows), space=SWEEP["space"])
    curves.write(tmp_path / "curves.json.gz")
    assert math.isnan(Table.read(tmp_path / "curves.json.gz").rows[3].curve[-1])
    assert curves.ranking[-1] == 3
    for recipe in ({"type": "none"}, {"type": "promotion"}):
        search = Declared(recipe)(curves, list(range(30)), 0)
        assert 3 not in [found.place for found in Clock(curves, search, 2).run()]
        assert search.study.trials[3].state.name == "FAIL"


def test_one_epoch_of_each_then_the_best() -> None:
    curves = table(20)
    clock = Clock(curves, OneEpoch(curves, list(range(20)), 0), 1)
    trained = [found.place for found in clock.run()]
    first = sorted(range(20), key=lambda place: -curves.rows[place].curve[0])
    assert trained == first[:2] and clock.reports == 20 + 2 * (REPORTS - 1)


def test_asha_stops_whoever_is_below_the_cutoff_of_those_before() -> None:
    curves = table(3)
    asha = RayAsha(curves, [0, 1, 2], 0, grace=1, factor=2)
    assert asha.report(0, 1, 0.5) and not asha.report(1, 1, 0.4) and asha.report(2, 1, 0.6)


def test_minimized_tables_are_ranked_from_the_smallest() -> None:
    curves = table()
    rows = tuple(Row(row.params, tuple(-score for score in row.curve)) for row in curves.rows)
    negated = Table("negated", rows, "minimize", space=curves.space)
    assert negated.ranking == curves.ranking
    for name in ("promotion", "successive_halving", "median"):
        assert search(negated, name, 1, 0) == search(curves, name, 1, 0)


def test_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    curves = table()
    curves.write(tmp_path / "curves.json.gz", seed=1)
    assert Table.read(tmp_path / "curves.json.gz") == curves
    before = (tmp_path / "curves.json.gz").read_bytes()
    curves.write(tmp_path / "curves.json.gz", seed=1)
    assert (tmp_path / "curves.json.gz").read_bytes() == before


def test_list_from_outside_is_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"params": {"x": place % 3}, "curve": [place, place * 2]} for place in range(10)]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    options = ["--seeds", "4", "--recipe", "oracle", "--recipe", "random", "--reports-per-epoch", "2"]
    assert main(["--table", str(tmp_path / "list.json"), *options]) == 0
    said = capsys.readouterr().out
    assert "10 configurations, 4 orders, 1 worker" in said
    assert [line.split()[1] for line in said.splitlines() if line.startswith("oracle")] == ["1.0"]


@pytest.mark.parametrize(("trials", "workers"), [
    (4, 1), (4, 64), (24, 1), (24, 64), (200, 1), (200, 64), pytest.param(2000, 64, marks=pytest.mark.long)
])  # fmt: skip
def test_auto_trains_a_good_one_to_its_end_at_every_size(trials: int, workers: int) -> None:
    curves = table(trials)
    clock = Clock(curves, RECIPES["auto"](curves, list(range(trials)), 0), workers)
    trained = {found.place for found in clock.run()}
    assert trained & curves.best(0.1)
    share = clock.reports / (trials * REPORTS)
    assert share <= (0.8 if trials == 4 else 0.5), f"{share:.0%} of all reports"


def test_auto_tries_every_point_of_a_single_choice() -> None:
    rows = tuple(Row({"cell": cell}, tuple(0.1 * place for _ in range(8))) for place, cell in enumerate("abcde"))
    curves = Table("choice", rows, space={"cell": {"type": "categorical", "choices": list("abcde")}})
    assert curves.sweep(sampler={"type": "auto"}).chosen_sampler.type == "grid"
    clock = Clock(curves, RECIPES["auto"](curves, list(range(5)), 0), 1)
    assert 4 in {found.place for found in clock.run()}


TABLES = Path(__file__).parents[1] / "benchmarks/replay/tables"


@pytest.mark.parametrize(("name", "rows", "direction"), [
    ("mnist", 194, "maximize"), ("fashion", 64, "maximize"), ("series", 64, "minimize"), ("series-2", 64, "minimize"),
    ("mnist-loss", 194, "minimize"), ("fashion-loss", 64, "minimize"), ("seeds-5", 12, "maximize"),
    ("seeds-6", 12, "maximize"),
])  # fmt: skip
def test_committed_table_has_whole_curves_of_the_space_of_cells(name: str, rows: int, direction: str) -> None:
    table, cells = Table.read(TABLES / f"{name}.json.gz"), load_sweep(TABLES.parents[2] / "search_spaces/cells.yaml")
    assert len(table.rows) == rows and (TABLES / f"{name}.json.gz").stat().st_size < 100_000
    assert (table.reports, table.reports_per_epoch, table.direction) == (32, 4, direction)
    searched = {name: domain for name, domain in cells.space.items() if domain.count() != 1}
    space = table.sweep().space
    assert dict(space) == searched
    assert all(not any(check_point(row.params, space)) for row in table.rows)
    values = [value for row in table.rows for value in row.curve]
    assert all(value >= 0 or math.isnan(value) for value in values)
    assert direction == "minimize" or max(values) <= 1


def test_configurations_of_the_noise_tables_are_rows_of_the_first_table() -> None:
    known = [row.params for row in Table.read(TABLES / "mnist.json.gz").rows]
    for name in ("seeds-5", "seeds-6"):
        rows = Table.read(TABLES / f"{name}.json.gz").rows
        assert all(row.params in known for row in rows) and len({str(row.params) for row in rows}) == 12


def test_curves_of_several_lengths_are_refused(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(json.dumps([{"params": {}, "curve": [1]}, {"params": {}, "curve": [1, 2]}]))
    with pytest.raises(ValueError, match="several lengths"):
        Table.read(tmp_path / "list.json")


def test_interval_of_the_median_narrows_with_more_orders() -> None:
    draw = random.Random(0)
    few, many = ([draw.random() for _ in range(count)] for count in (40, 4000))
    assert interval(few)[0] < interval(many)[0] < 0.5 < interval(many)[1] < interval(few)[1]


def test_proposal_is_compared_parameter_by_parameter() -> None:
    sweep = table().sweep()
    one, other = {"height": 0.0, "rate": 0.05}, {"height": 1.0, "rate": 0.05}
    assert distance(one, one, sweep.space) == 0 and distance(one, other, sweep.space) == 1


@pytest.mark.parametrize("name", [name for name in RECIPES if not isinstance(RECIPES[name], type(Oracle))])
def test_every_recipe_ends(name: str) -> None:
    found = search(table(), name, 4, 1)
    assert set(found) == set(SHARES)


def test_hypervolume_is_the_area_between_the_front_and_the_reference_point() -> None:
    assert hypervolume([]) == 0.0
    assert hypervolume([(0.9, 1e5)]) == pytest.approx(0.4)
    front = [(0.9, 1e5), (0.7, 1e3)]
    assert hypervolume(front) == pytest.approx(0.2 * 3 + 0.2 * 1)
    dominated = [(0.6, 1e4), (0.9, 2e5), (0.99, 2e6), (0.4, 10.0), (math.nan, 10.0)]
    assert hypervolume(front + dominated) == pytest.approx(hypervolume(front))


@pytest.mark.parametrize("name", CONTENDERS)
def test_goals_are_searched_in_the_table_within_the_budget(name: str) -> None:
    few, more = (replay(name, trials, 1) for trials in (4, 12))
    assert few <= more == replay(name, 12, 1) > 0.0
