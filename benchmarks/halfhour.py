"""Half an hour for each: the champion that sweeper's recipes and Ray Tune's find on two cores, on the whole of MNIST.

Usage: python -m benchmarks.halfhour [--seeds 1 2 3] [--only NAME ...] [--minutes 30]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, keep, run, versions
from benchmarks.workload import PARALLEL

SPACE = ROOT / "search_spaces" / "cells.yaml"
HALVING = '{"type": "successive_halving", "min_epochs": 0.5, "reduction_factor": 3}'


def sweeper(seed: int, minutes: float, *options: str) -> dict[str, Any]:
    """Run the shipped space until the time is up, and ask for its summary."""
    changes = [f"budget.timeout={60 * minutes:g}s", f"budget.parallel={PARALLEL}", f"seed={seed}", *options]
    command = [sys.executable, "-m", "sweeper", "run", str(SPACE)]
    subprocess.run(command + [word for change in changes for word in ("--set", change)], stdout=sys.stderr)
    # A sweep that ran out of time has not tested its best model yet.
    subprocess.run([sys.executable, "-m", "sweeper", "promote", "cells"], stdout=sys.stderr)
    shown = subprocess.run([sys.executable, "-m", "sweeper", "show", "cells", "--json"], stdout=subprocess.PIPE)
    sweep = json.loads(shown.stdout)
    trials, summary = [trial for trial in sweep["trials"] if trial["step"]], sweep["summary"]
    return {
        "trials": len(trials),
        "complete": sum(trial["state"] == "COMPLETE" for trial in trials),
        "epochs": sum(trial["epochs"] for trial in trials),
        "val_accuracy": summary["best"]["value"],
        "test_accuracy": summary["test"]["test_accuracy"],
    }


def ray_tune(seed: int, minutes: float) -> dict[str, Any]:
    """Run what Ray Tune's documentation shows for Keras: OptunaSearch, ASHAScheduler, a checkpoint with each report."""
    import logging

    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    from sweeper.spec import load_sweep

    sweep = load_sweep(SPACE)
    epochs = int(sweep.budget.epochs or 0)

    def train(config: dict[str, Any]) -> None:
        import keras

        model, data = _compiled(config, epochs)

        class Report(keras.callbacks.Callback):  # type: ignore[misc]
            def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
                with tempfile.TemporaryDirectory() as folder:
                    model.save(Path(folder) / "model.keras")
                    tune.report(dict(logs or {}), checkpoint=tune.Checkpoint.from_directory(folder))

        model.fit(
            *data["train"],
            batch_size=config["batch_size"],
            epochs=epochs,
            validation_data=data["validation"],
            callbacks=[Report()],
            verbose=0,
        )

    ray.init("local", num_cpus=PARALLEL, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    results = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(
                _define, points_to_evaluate=list(sweep.enqueue), metric="val_accuracy", mode="max", seed=seed
            ),
            scheduler=ASHAScheduler(metric="val_accuracy", mode="max", max_t=epochs, grace_period=1),
            num_samples=-1,
            time_budget_s=60 * minutes,
        ),
        run_config=tune.RunConfig(
            storage_path=os.getcwd(), verbose=0, checkpoint_config=tune.CheckpointConfig(num_to_keep=1)
        ),
    ).fit()
    ray.shutdown()
    ran = [result.metrics.get("training_iteration", 0) for result in results if result.metrics]
    best = results.get_best_result("val_accuracy", "max", scope="last", filter_nan_and_inf=True)
    return {
        "trials": sum(map(bool, ran)),
        "complete": sum(made >= epochs for made in ran),
        "epochs": sum(ran),
        "val_accuracy": best.metrics["val_accuracy"],
        "test_accuracy": _tested(best),
    }


def _define(trial: Any) -> None:
    from sweeper.search.space import suggest
    from sweeper.spec import load_sweep

    suggest(trial, load_sweep(SPACE).space)


def _tested(best: Any) -> float:
    import keras

    _, data = _compiled({**best.config, "units": 1}, 1)
    with best.checkpoint.as_directory() as folder:
        model = keras.models.load_model(Path(folder) / "model.keras")
    return float(model.evaluate(*data["test"], verbose=0)[1])


def _compiled(config: dict[str, Any], epochs: int) -> tuple[Any, dict[str, Any]]:
    """Return the same network as sweeper's, for Keras's own `fit`, and the same data."""
    from benchmarks.sides import limit

    limit("tensorflow", 1)
    import keras

    from sweeper.datasets.catalog import Mnist
    from sweeper.training.engine.keras_model import build_network
    from sweeper.training.hparams import RNNParams

    params, dataset = RNNParams(**config), Mnist(type="mnist")
    arrays = dataset.load()
    pixels = {name: getattr(arrays, f"x_{name}").astype("float32") / 255 for name in ("train", "val", "test")}
    steps = epochs * -(-len(pixels["train"]) // params.batch_size)
    options: dict[str, Any] = {"learning_rate": keras.optimizers.schedules.CosineDecay(params.learning_rate, steps)}
    if params.optimizer in ("sgd", "rmsprop"):
        options["momentum"] = params.momentum
    if params.optimizer == "sgd":
        options["nesterov"] = params.nesterov
    if params.optimizer == "adamw":
        options["weight_decay"] = params.weight_decay
    if params.clip_norm:
        options["global_clipnorm"] = params.clip_norm
    kinds = {"sgd": "SGD", "rmsprop": "RMSprop", "adam": "Adam", "adamw": "AdamW"}
    model = build_network(params, dataset.task)
    model.compile(
        optimizer=getattr(keras.optimizers, kinds[params.optimizer])(**options),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    labels = {name: getattr(arrays, f"y_{name}") for name in pixels}
    named = {"train": "train", "validation": "val", "test": "test"}
    return model, {name: (pixels[part], labels[part]) for name, part in named.items()}


CONTENDERS: dict[str, Callable[[int, float], dict[str, Any]]] = {
    "sweeper, auto": sweeper,
    "sweeper, TPE and halving": lambda seed, minutes: sweeper(
        seed, minutes, 'sampler={"type": "tpe"}', f"pruner={HALVING}"
    ),
    "Ray Tune, ASHA and OptunaSearch": ray_tune,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.halfhour", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--minutes", type=float, default=30.0)
    chosen = parser.parse_args()
    results: list[dict[str, Any]] = []
    for seed in chosen.seeds:
        for name in chosen.only:
            began = time.time()
            answer = run("benchmarks.halfhour", "run", name, seed, chosen.minutes, timeout=chosen.minutes * 60 + 900)
            found: dict[str, Any] = {"failure": answer} if isinstance(answer, str) else answer[0]
            results.append({"name": name, "seed": seed, "seconds": time.time() - began, **found})
            print(line(results[-1]), flush=True)
            keep("halfhour", {"minutes": chosen.minutes, "versions": versions(["sweeper", "ray"]), "results": results})


def line(result: dict[str, Any]) -> str:
    about = f"{result['name']:32} seed {result['seed']}  {result['seconds']:5.0f} s  "
    if "failure" in result:
        return about + str(result["failure"])
    return about + (
        f"{result['trials']:3} trials, {result['complete']:2} complete, {result['epochs']:6.1f} epochs; "
        f"val_accuracy {result['val_accuracy']:.4f}, test_accuracy {result['test_accuracy']:.4f}"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        print(json.dumps(CONTENDERS[sys.argv[2]](int(sys.argv[3]), float(sys.argv[4]))))
    else:
        main()
