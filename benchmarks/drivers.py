"""The drivers that `overhead` measures: each runs trials that do nothing, in its own process, and prints JSON."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil

SPACE: dict[str, dict[str, Any]] = {
    "units": {"type": "int", "low": 32, "high": 256, "log": True},
    "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "dropout": {"type": "float", "low": 0.0, "high": 0.5},
    "optimizer": {"type": "categorical", "choices": ["sgd", "rmsprop", "adam"]},
}
PARALLEL = 2


def nothing(params: dict[str, Any], trial: Any) -> None:
    """Report the same curve for every trial, so that the pruner is asked and never prunes."""
    while trial.step < trial.reports:
        trial.report({"score": float(trial.step)})


def learn(params: dict[str, Any], trial: Any) -> None:
    """Report a curve that depends on the parameters, so that promotion pauses trials and takes them up again."""
    while trial.step < trial.reports:
        score = params["dropout"] - abs(math.log10(params["learning_rate"]) + 2.5) - 1 / (trial.step + 1)
        trial.report({"score": score}, checkpoint=(lambda folder: None) if trial.may_pause else None)


class Clock:
    """Time, processor time and memory of this process at twenty-one points of a run.

    A trial counts when it ends for the first time: one that was paused may end again.
    """

    def __init__(self, trials: int) -> None:
        self._every = max(1, trials // 20)
        self._ended: set[int] = set()
        self._reports = 0
        self.points: list[dict[str, float]] = []

    def start(self) -> None:
        if not self.points:
            self._note()

    def end_trial(self, number: int | None = None) -> None:
        before = len(self._ended)
        self._ended.add(before if number is None else number)
        if len(self._ended) > before and len(self._ended) % self._every == 0:
            self._note()

    def _note(self) -> None:
        process = psutil.Process()  # not kept: Ray Tune pickles its callbacks
        memory, cpu = process.memory_info().rss / 2**20, sum(process.cpu_times()[:2])
        point = {"trials": len(self._ended), "reports": self._reports, "seconds": time.perf_counter()}
        self.points.append({**point, "cpu": cpu, "rss": memory})

    # A listener of sweeper's study.
    def on_trial(self, row: Any, report: Any) -> None:
        self._reports += report is not None
        if row.state == "RUNNING":
            self.start()
        else:
            self.end_trial(row.number)

    def on_phase(self, message: str) -> None:
        pass


def sweeper(clock: Clock, trials: int, reports: int, *, mlflow: bool = False, pausing: bool = False) -> None:
    from sweeper.core.files import PinnedPath
    from sweeper.core.sweep_folder import SweepFolder
    from sweeper.driver.connection.cluster import ray_cluster
    from sweeper.driver.stop import RunControl, StopSignal
    from sweeper.driver.tune import tune_trials
    from sweeper.spec import Sweep
    from sweeper.study.open import open_study
    from sweeper.tracking import Projection
    from sweeper.worker.task import WorkerContext

    sweep = Sweep.from_mapping(
        {
            "name": "overhead",
            "trainable": f"benchmarks.drivers:{'learn' if pausing else 'nothing'}",
            "objective": {"metric": "score"},
            "budget": {"trials": trials, "epochs": reports, "parallel": PARALLEL},
            "sampler": {"type": "tpe"},
            "pruner": {"type": "promotion" if pausing else "median"},
            "space": SPACE,
            "storage": "sqlite:///sweeper.db",
        }
    )
    listeners: list[Any] = [clock]
    with ExitStack() as stack:
        if mlflow:
            projection = Projection(sweep, "sqlite:///mlflow.db")
            listeners.append(projection)
        study = stack.enter_context(open_study(sweep, listeners=listeners))
        if mlflow:
            projection.start(study)
            stack.callback(projection.close)
        stop = stack.enter_context(StopSignal(None))
        stack.enter_context(ray_cluster(None))
        context = WorkerContext(sweep, SweepFolder.of("overhead", sweep.name))
        control = RunControl(study, stop, PinnedPath(Path(), "the working folder"))
        tune_trials(study, context, control=control, must_evaluate=lambda best: False)


def ray_tune(clock: Clock, trials: int, reports: int) -> None:
    import logging

    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    class Nothing(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            pass

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

        def step(self) -> dict[str, Any]:
            return {"score": float(self.training_iteration), "done": self.training_iteration + 1 >= reports}

    class Watch(tune.Callback):  # type: ignore[misc]
        def on_trial_start(self, *_: Any, **__: Any) -> None:
            clock.start()

        def on_trial_complete(self, *_: Any, **__: Any) -> None:
            clock.end_trial()

    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    ray.init("local", num_cpus=PARALLEL, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    space = {
        "units": tune.lograndint(32, 256),
        "learning_rate": tune.loguniform(1e-4, 1e-1),
        "dropout": tune.uniform(0.0, 0.5),
        "optimizer": tune.choice(["sgd", "rmsprop", "adam"]),
    }
    tune.Tuner(
        tune.with_resources(Nothing, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="score", mode="max", search_alg=OptunaSearch(), num_samples=trials, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            storage_path=os.getcwd(),
            verbose=0,
            callbacks=[Watch()],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    ).fit()
    ray.shutdown()


def optuna_alone(clock: Clock, trials: int, reports: int, *, storage: str | None) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=storage, direction="maximize", pruner=optuna.pruners.MedianPruner())
    clock.start()
    for _ in range(trials):
        trial = study.ask()
        trial.suggest_int("units", 32, 256, log=True)
        trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
        trial.suggest_float("dropout", 0.0, 0.5)
        trial.suggest_categorical("optimizer", ["sgd", "rmsprop", "adam"])
        for step in range(1, reports + 1):
            trial.report(float(step), step)
            if step < reports:
                trial.should_prune()
        study.tell(trial, float(reports))
        clock.end_trial()


DRIVERS: dict[str, Callable[[Clock, int, int], None]] = {
    "sweeper": sweeper,
    "sweeper + MLflow": lambda clock, trials, reports: sweeper(clock, trials, reports, mlflow=True),
    "sweeper, pausing": lambda clock, trials, reports: sweeper(clock, trials, reports, pausing=True),
    "Ray Tune, reused actors": ray_tune,
    "Optuna, SQLite": lambda clock, trials, reports: optuna_alone(clock, trials, reports, storage="sqlite:///o.db"),
    "Optuna, memory": lambda clock, trials, reports: optuna_alone(clock, trials, reports, storage=None),
}


def main() -> None:
    name, trials, reports = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    clock = Clock(trials)
    with suppress(KeyboardInterrupt):
        DRIVERS[name](clock, trials, reports)
    print(json.dumps(clock.points))


if __name__ == "__main__":
    main()
