"""The peers that `peers` compares, each used as its documentation shows: a function, in its own process and folder.

Each prints, as its last line, how many trials and epochs it ran, and the time of the last result.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.workload import EPOCHS, PARALLEL, SPACE, TRAIN, VALIDATION, build_model, configurations, fit, load_data


def sweeper(count: int, backend: str = "tensorflow") -> dict[str, float]:
    """Run the real command and read the study that it leaves."""
    import subprocess

    from sweeper.study.open import read_study

    space = {name: {"type": "categorical", "choices": choices} for name, choices in SPACE.items()}
    sweep = {
        "name": "peers",
        "dataset": {"type": "mnist", "train": TRAIN, "validation": VALIDATION},
        "objective": {"metric": "val_accuracy"},
        "budget": {"trials": count, "epochs": EPOCHS, "parallel": min(PARALLEL, count)},
        "pruner": {"type": "none"},
        "space": {**space, "backend": backend},
        "enqueue": configurations(count),
        "storage": "sqlite:///sweeper.db",
    }
    Path("peers.yaml").write_text(json.dumps(sweep))  # JSON is YAML
    subprocess.run([sys.executable, "-m", "sweeper", "run", "peers.yaml"], check=True, stdout=sys.stderr)
    study = read_study("peers", "sqlite:///sweeper.db")
    times = [report.time for row in study.rows() for report in study.reports(row.number)]
    return {
        "trials": sum(row.state == "COMPLETE" for row in study.rows()),
        "epochs": len(times),
        "first": min(times),
        "last": max(times),
    }


def _ray(count: int, *, reuse: bool, asha: bool) -> dict[str, float]:
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    def train(config: dict[str, Any]) -> None:
        import keras

        class Report(keras.callbacks.Callback):  # type: ignore[misc]
            def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
                tune.report(dict(logs or {}))

        fit(config, load_data(), [Report()])

    ray.init("local", num_cpus=PARALLEL, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    points = configurations(count)
    results = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={name: tune.choice(choices) for name, choices in SPACE.items()},
        tune_config=tune.TuneConfig(
            metric="val_accuracy",
            mode="max",
            search_alg=OptunaSearch(points_to_evaluate=points),
            scheduler=ASHAScheduler(max_t=EPOCHS, grace_period=1) if asha else None,
            num_samples=count,
            max_concurrent_trials=PARALLEL,
            reuse_actors=reuse,
        ),
        run_config=tune.RunConfig(
            storage_path=os.getcwd(),
            verbose=0,
            callbacks=[MLflowLoggerCallback(tracking_uri="sqlite:///mlflow.db", experiment_name="peers")],
        ),
    ).fit()
    last = time.time()
    ran = [result.metrics["training_iteration"] for result in results if result.metrics and result.error is None]
    ray.shutdown()
    return {"trials": len(ran), "epochs": sum(ran), "last": last}


def _optuna(count: int, *, jobs: int) -> dict[str, float]:
    import optuna

    data, points = load_data(), configurations(count)
    study = optuna.create_study(direction="maximize")
    for point in points:
        study.enqueue_trial(point)

    def objective(trial: optuna.Trial) -> float:
        return fit({name: trial.suggest_categorical(name, choices) for name, choices in SPACE.items()}, data)

    study.optimize(objective, n_trials=count, n_jobs=jobs)
    ran = sum(trial.state.is_finished() and trial.value is not None for trial in study.trials)
    return {"trials": ran, "epochs": ran * EPOCHS, "last": time.time()}


def keras_tuner(count: int) -> dict[str, float]:
    import keras_tuner as kt

    data, points = load_data(), configurations(count)

    class Plain(kt.HyperModel):  # type: ignore[misc]
        def build(self, hp: Any) -> Any:
            return build_model(points[hp.Int("point", 0, count - 1)])

        def fit(self, hp: Any, model: Any, *args: Any, **options: Any) -> Any:
            return model.fit(*args, batch_size=points[hp.get("point")]["batch_size"], **options)

    x, y, x_val, y_val = data
    tuner = kt.GridSearch(Plain(), objective="val_accuracy", max_trials=count, directory=".", project_name="peers")
    tuner.search(x, y, epochs=EPOCHS, validation_data=(x_val, y_val), verbose=0)
    ran = sum(trial.status == "COMPLETED" for trial in tuner.oracle.trials.values())
    return {"trials": ran, "epochs": ran * EPOCHS, "last": time.time()}


def syne_tune(count: int) -> dict[str, float]:
    import syne_tune.config_space as domains
    from syne_tune import StoppingCriterion, Tuner
    from syne_tune.backend import LocalBackend
    from syne_tune.optimizer.baselines import RandomSearch

    space = {name: domains.choice(choices) for name, choices in SPACE.items()}
    tuner = Tuner(
        trial_backend=LocalBackend(entry_point=str(Path(__file__).with_name("syne_trial.py"))),
        scheduler=RandomSearch(
            space, metrics=["val_accuracy"], do_minimize=False, points_to_evaluate=configurations(count)
        ),
        stop_criterion=StoppingCriterion(max_num_trials_started=count - 1),  # stops above it
        n_workers=min(PARALLEL, count),
        wait_trial_completion_when_stopping=True,
        trial_backend_path=os.getcwd(),
    )
    tuner.run()
    done = tuner.tuning_status.num_trials_completed
    return {"trials": done, "epochs": done * EPOCHS, "last": time.time()}


def bare_side_by_side(count: int) -> dict[str, float]:
    """Run the same in as many processes as cores, each with its share of the configurations.

    A core is slower while the others compute, and each process traces each cell: no sweep can be without either.
    """
    import subprocess

    code = "import json, sys, benchmarks.recipes as r; print(json.dumps(r.bare(*map(int, sys.argv[1:]))))"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(count), str(n), str(PARALLEL)], stdout=subprocess.PIPE)
        for n in range(min(PARALLEL, count))
    ]
    ran = [json.loads(process.communicate()[0].splitlines()[-1]) for process in processes]
    return {
        **{name: sum(one[name] for one in ran) for name in ("trials", "epochs", "training")},
        "last": max(one["last"] for one in ran),
    }


def bare(count: int, first: int = 0, every: int = 1) -> dict[str, float]:
    """Run sweeper's training without a sweep: one trial after the other in one warm process, with one thread.

    Args:
        first: the first configuration that it trains.
        every: it trains one of so many.
    """
    from sweeper.datasets.catalog import Mnist
    from sweeper.search.budget import Budget
    from sweeper.spec import TrialResources
    from sweeper.training.hparams import RNNParams
    from sweeper.training.trainable import train_rnn
    from sweeper.worker.checkpoints import CheckpointStore
    from sweeper.worker.trial import Trial

    dataset = Mnist(type="mnist", train=TRAIN, validation=VALIDATION)
    budget = Budget(trials=count, epochs=EPOCHS)

    def train(number: int, config: dict[str, Any]) -> float:
        started = time.perf_counter()
        store = CheckpointStore(Path(tempfile.mkdtemp(dir=".")))
        trial = Trial(
            number=number, seed=number, budget=budget, objective="val_accuracy", dataset=dataset,
            resources=TrialResources(), checkpoints=store, send=lambda report, meanwhile: None,
        )  # fmt: skip
        train_rnn(RNNParams(**config), trial)
        return time.perf_counter() - started

    points = configurations(count)[first::every]
    train(0, points[0])  # warms the process up: TensorFlow and the data are loaded
    seconds = [train(number, point) for number, point in enumerate(points)]
    return {"trials": len(points), "epochs": len(points) * EPOCHS, "last": time.time(), "training": sum(seconds)}


RECIPES: dict[str, tuple[str, Callable[[int], dict[str, float]]]] = {
    "sweeper run": ("sweeper", sweeper),
    "sweeper run, jax": ("jax", lambda count: sweeper(count, "jax")),
    "Ray Tune": ("ray", lambda count: _ray(count, reuse=False, asha=False)),
    "Ray Tune, ASHA": ("ray", lambda count: _ray(count, reuse=False, asha=True)),
    "Ray Tune, reused actors": ("ray", lambda count: _ray(count, reuse=True, asha=False)),
    "Optuna": ("optuna", lambda count: _optuna(count, jobs=1)),
    "Optuna, n_jobs=2": ("optuna", lambda count: _optuna(count, jobs=2)),
    "KerasTuner": ("keras-tuner", keras_tuner),
    "Syne Tune, local": ("syne-tune", syne_tune),
    "bare training": ("sweeper", bare),
    "bare training, side by side": ("sweeper", bare_side_by_side),
}
"""The package that each peer needs, and the function that runs it, by name."""

PRUNING = ("Ray Tune, ASHA",)
"""The peers that end some trials after their first epoch."""


if __name__ == "__main__":
    print(json.dumps(RECIPES[sys.argv[1]][1](int(sys.argv[2]))))
