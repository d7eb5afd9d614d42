from __future__ import annotations

import doctest
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sweeper
from sweeper.core.errors import InputError
from sweeper.search.budget import Budget
from sweeper.search.space import Constant, Float
from sweeper.spec import Sweep, load_sweep, sweep_schema
from tests.spec.conftest import refusal

ROOT = Path(__file__).parents[2]


def test_sample_file_is_read_as_written(write: Callable[..., Path]) -> None:
    sweep = load_sweep(write())

    assert sweep.budget == Budget(
        trials=24, epochs=8, reports_per_epoch=4, parallel="auto", timeout=1800, max_failures=3
    )
    assert sweep.budget.reports == 32 and sweep.trial_limit == 24
    assert sweep.space["cell"] == Constant(value="lstm")
    assert sweep.space["momentum"] == Float(low=0, high=0.99, when={"optimizer": ("sgd",)})
    assert sweep.enqueue == ({"units": 128, "learning_rate": 0.001, "batch_size": 128, "optimizer": "adam"},)
    assert sweep.warnings() == []


def test_shortest_sweep_has_defaults_for_the_rest() -> None:
    sweep = Sweep.from_mapping(
        {"name": "x", "trainable": "tests.samples:climb", "budget": {"trials": 3, "epochs": 2}, "space": {"height": 1}}
    )

    assert (sweep.sampler.type, sweep.pruner.type, sweep.storage) == ("tpe", "median", "sqlite:///sweeper.db")
    assert (sweep.dataset, sweep.sampler_seed, sweep.tracking.experiment) == (None, 0, "sweeper")


@pytest.mark.parametrize("name", ["Sweep", "load_sweep"])
def test_example_of_a_public_name_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (example,) = doctest.DocTestFinder(recurse=False).find(getattr(sweeper, name), name)

    assert doctest.DocTestRunner().run(example) == (0, len(example.examples))
    assert len(example.examples) >= 2


def test_sweep_survives_json(write: Callable[..., Path]) -> None:
    sweep = load_sweep(write())

    assert Sweep.model_validate(sweep.model_dump(mode="json")) == sweep
    assert Sweep.model_validate_json(sweep.model_dump_json()) == sweep
    assert Sweep.from_mapping(sweep.model_dump(mode="json")) == sweep


def test_sweep_is_frozen(write: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_sweep(write()).name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("overrides", "read"),
    [
        ({"budget.trials": "5"}, lambda sweep: sweep.budget.trials == 5),
        ({"budget.trials": 5}, lambda sweep: sweep.budget.trials == 5),
        ({"space.units": "128"}, lambda sweep: sweep.space["units"] == Constant(value=128)),
        ({"space.units.high": "512"}, lambda sweep: sweep.space["units"].high == 512),
        ({"space.batch_size.choices": "[64, 128]"}, lambda sweep: sweep.space["batch_size"].choices == (64, 128)),
        ({"space.layers": "{type: int, low: 1, high: 2}"}, lambda sweep: sweep.space["layers"].count() == 2),
        ({"budget.timeout": "null"}, lambda sweep: sweep.budget.timeout is None),
        ({"enqueue": None}, lambda sweep: sweep.enqueue == ()),
        ({"tracking.uri": "http://host:5000"}, lambda sweep: sweep.tracking.uri == "http://host:5000"),
        ({"description": ""}, lambda sweep: sweep.description == ""),
        ({"nothing.at.all": "null"}, lambda sweep: True),
        ({"sampler.type": "random"}, lambda sweep: sweep.sampler.type == "random"),
        ({"pruner.type": "median"}, lambda sweep: (sweep.pruner.type, sweep.pruner.min_epochs) == ("median", 0.25)),
        (
            {"pruner.interval_epochs": "0.5", "pruner.type": " median "},
            lambda sweep: (sweep.pruner.type, sweep.pruner.interval_epochs) == ("median", 0.5),
        ),
        (
            {
                "budget.steps": "1000",
                "budget.epochs": "null",
                "budget.reports_per_epoch": "null",
                "pruner.min_epochs": None,
            },
            lambda sweep: (sweep.budget.steps, sweep.budget.epochs) == (1000, None),
        ),
    ],
)
def test_overrides_replace_values_of_the_file(
    overrides: dict[str, Any], read: Callable[[Any], bool], write: Callable[..., Path]
) -> None:
    assert read(load_sweep(write(), overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"budget.trials": "0"}, "lstm.yaml  --set budget.trials: 0 must be >= 1"),
        ({"budget.trails": "5"}, "lstm.yaml  --set budget.trails: unknown key. Did you mean 'trials'?"),
        (
            {"space.cell.low": "5"},
            "lstm.yaml  --set space.cell.low: space.cell is 'lstm', which has no keys; set space.cell",
        ),
        ({"enqueue.units": "5"}, "--set enqueue.units: enqueue is [{"),
        ({"space.units": "[1"}, "lstm.yaml  --set space.units: is not YAML: a bracket is not closed"),
        ({"space.units": "{type: int, low: 0, high: 9}"}, "lstm.yaml  --set space.units.low: 0 must be >= 1"),
        ({"budget.": "5"}, "--set budget.: is not a key; write it like budget.trials"),
        ({"name": "null"}, "lstm.yaml  --set name: is missing"),
        (
            {"pruner.reduction_factor": "3", "pruner.type": "median"},
            "lstm.yaml  --set pruner.reduction_factor: unknown key",
        ),
        ({"pruner.type": "medain"}, "lstm.yaml  --set pruner.type: 'medain' is not known. Did you mean 'median'?"),
    ],
)
def test_problem_of_an_override_names_the_override(
    overrides: dict[str, Any], message: str, write: Callable[..., Path]
) -> None:
    messages = refusal(write(), overrides)

    assert any(message in line for line in messages), messages


@pytest.mark.parametrize(
    ("budget", "reports", "epochs"),
    [
        (Budget(trials=1, epochs=8, reports_per_epoch=4), 32, [0.25, 8]),
        (Budget(trials=1, epochs=0.5, reports_per_epoch=4), 2, [0.25, 0.5]),
        (Budget(trials=1, epochs=1), 1, [1, 1]),
        (Budget(trials=1, epochs=0.3, reports_per_epoch=10), 3, [0.1, 0.3]),
        (Budget(trials=1, steps=1000), 20, [50, 1000]),
        (Budget(trials=1, steps=1000, report_every=300), 4, [300, 1000]),
        (Budget(trials=1, steps=7), 7, [1, 7]),
    ],
)
def test_budget_counts_reports_and_their_epochs(budget: Budget, reports: int, epochs: list[float]) -> None:
    assert budget.reports == reports
    assert [budget.epoch_of(1), budget.epoch_of(reports)] == epochs
    assert budget.reports_in(epochs[0]) == 1 and budget.reports_in(epochs[1]) == reports
    assert budget.reports_in(1e-9) == 1


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("1h30m", 5400), ("90s", 90), ("1.5h", 5400), ("2d", 172800), (45, 45)]
)
def test_durations_are_written_with_units(text: object, seconds: float) -> None:
    assert Budget.model_validate({"trials": 1, "epochs": 1, "timeout": text}).timeout == seconds


def test_secrets_stay_in_the_environment(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = load_sweep(
        write("storage: postgresql+psycopg://me:${env:DB_PASSWORD}@host/db"), {"tracking.uri": "${env:TRACKING}"}
    )
    monkeypatch.setenv("DB_PASSWORD", "p@ss/word")
    monkeypatch.setenv("TRACKING", "https://u:p@host")

    assert sweep.storage_url() == "postgresql+psycopg://me:p%40ss%2Fword@host/db"
    assert sweep.tracking.resolved_uri() == "https://u:p@host"
    assert "p@ss" not in sweep.model_dump_json() + repr(sweep)
    monkeypatch.delenv("DB_PASSWORD")
    with pytest.raises(InputError, match="DB_PASSWORD is not set"):
        sweep.storage_url()


@pytest.mark.parametrize(
    ("line", "warning"),
    [
        ("budget: {trials: 24, epochs: 1}", "so that none can be pruned; raise budget.reports_per_epoch"),
        ("pruner: {type: hyperband}", "needs 40 or more"),
        ("space: {units: {type: int, low: 64, high: 64}}", "space.units has one value only; write units: 64"),
        ("enqueue: [" + "{}," * 30 + "]", "only 24 of the 30 points in enqueue"),
    ],
)
def test_probable_mistake_is_a_warning(line: str, warning: str, write: Callable[..., Path]) -> None:
    sweep = load_sweep(write(line), None if line.startswith("enqueue") else {"enqueue": None})

    assert any(warning in text for text in sweep.warnings()), sweep.warnings()


def test_grid_with_fewer_points_than_trials_ends_early(write: Callable[..., Path]) -> None:
    space = "space: {cell: {type: categorical, choices: [lstm, gru]}, units: 32}"
    sweep = load_sweep(write(space), {"enqueue": None, "sampler": "{type: grid}"})

    assert sweep.trial_limit == 2
    assert "the grid has 2 points: the sweep ends after 2 trials, not 24" in sweep.warnings()


def test_every_key_of_the_schema_is_described() -> None:
    schema = sweep_schema()
    models = [schema, *schema["$defs"].values()]

    for model in models:
        for name, declared in model["properties"].items():
            target = schema["$defs"].get(str(declared.get("$ref", "")).removeprefix("#/$defs/"), {})
            assert declared.get("description") or target.get("description"), (model["title"], name)


def test_loading_imports_nothing_heavy(write: Callable[..., Path]) -> None:
    heavy = {"optuna", "ray", "mlflow", "tensorflow", "keras", "numpy", "sklearn", "sqlalchemy", "scipy", "pandas"}
    code = (
        f"import sys; from sweeper.spec import load_sweep; load_sweep({str(write())!r})\n"
        f"print(sorted({heavy!r} & set(sys.modules)), len(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    names, count = done.stdout.split()
    assert names == "[]" and int(count) < 400


@pytest.mark.parametrize(
    ("body", "warned"),
    [
        ("    trial.report({'a': 1.0})  # trial.save_model(model)", True),
        ("    model.evaluate(x)", True),
        ("    trial.save_model(model)", False),
        ("    model.fit(x, callbacks=[trial.keras(model)])", False),
        ("    pass\n\ntrain.evaluate = train", False),
        ("    from helper import finish\n    finish(trial)", False),
        ("    return model", False),
        ("    return loss", True),
    ],
)
def test_model_name_of_a_trainable_that_leaves_none_is_a_warning(tmp_path: Path, body: str, warned: bool) -> None:
    (tmp_path / "leaving.py").write_text(f"def train(params, trial):\n{body}\n")
    (tmp_path / "helper.py").write_text("def finish(trial):\n    trial.save_model('folder')\n")
    declared: dict[str, Any] = {
        "name": "x",
        "trainable": "leaving:train",
        "budget": {"trials": 2, "epochs": 3},
        "space": {"height": {"type": "float", "low": 0, "high": 1}},
    }
    assert Sweep.from_mapping(declared).warnings() == []
    found = Sweep.from_mapping(declared | {"tracking": {"model": "own"}}).warnings()
    expected = "nothing can be registered as tracking.model 'own': leaving:train calls neither trial.save_model(model)"
    assert [text.startswith(expected) for text in found] == [True] * warned
