"""The trainable that sweeper ships, `train_rnn`, and the test of the best trial, which saves its model."""

from __future__ import annotations

import functools
import math
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sweeper.core.errors import InputError
from sweeper.training.hparams import RNNParams
from sweeper.training.predictions import summarise
from sweeper.training.script import as_script
from sweeper.training.work import work

if TYPE_CHECKING:
    from sweeper.datasets.base import Arrays
    from sweeper.datasets.catalog import AnyDataset
    from sweeper.training.engine.loop import Loop
    from sweeper.worker.trial import Trial

Array = Any

CHECKPOINT_SECONDS = 2.0
"""Least time between two checkpoints; each waits some 20 ms for the disk, so not every fast report gets one."""


def train_rnn(params: RNNParams, trial: Trial) -> None:
    """Train a recurrent network, and validate it at each report."""
    _train(params, trial, _data_of(trial))


def retrain(params: RNNParams, trial: Trial) -> None:
    """Train the network of a trial on its training and validation data, for as many gradient steps.

    The learning rate follows the same schedule. The test data is not used, also with `watch_test`.
    """
    _train(params.model_copy(update={"watch_test": False}), trial, _data_of(trial).with_validation())


def _train(params: RNNParams, trial: Trial, data: Arrays) -> None:
    loop, threads = _start(params, trial, trial.checkpoint, data), _threads(trial)
    saved = time.monotonic()
    while trial.step < trial.reports:
        if threads != (threads := _threads(trial)):
            with TemporaryDirectory() as folder:
                loop.save(Path(folder))
                del loop  # its tensors, before TensorFlow starts again
                loop = _start(params, trial, Path(folder), data)
        stop, after = loop.plan.step_at(trial.step + 1), loop.plan.step_at(trial.step + 2)
        metrics = loop.advance(stop)
        if bad := {name: value for name, value in metrics.items() if not math.isfinite(value)}:
            raise trial.diverged(bad)  # weights that are NaN stay NaN, also where the objective is finite
        if trial.step == 0:
            metrics["parameters"] = float(loop.state.weights.shape[0])  # it stays the same: once is enough
        is_last = trial.step + 1 == trial.reports or trial.may_pause
        is_due = is_last or time.monotonic() - saved >= CHECKPOINT_SECONDS
        trial.report(
            metrics,
            checkpoint=loop.save if is_due else None,
            meanwhile=functools.partial(loop.train_ahead, after),
        )
        saved = time.monotonic() if is_due else saved


def evaluate(params: RNNParams, trial: Trial) -> dict[str, float]:
    """Rebuild the network from the trial's checkpoint, test it, and save it as a Keras model of built-in layers.

    The model takes sequences `[n, steps, features]`; pixels of images are from 0 to 255. It returns a probability for
    each class, or a forecast for each time step.
    """
    from sweeper.training.engine.keras_model import build_network, with_probabilities

    if trial.checkpoint is None:
        raise ValueError(f"trial {trial.number} has no checkpoint to evaluate")
    loop = _start(params, trial, trial.checkpoint, _data_of(trial))
    metrics = loop.test()
    dataset = _dataset_of(trial)
    task = dataset.task
    if not task.forecasts:
        outputs, test = loop.test_outputs(), trial.data
        trial.save_predictions(
            summarise(outputs, test.y_test, dataset.labels, lambda n: dataset.images(test.x_test[n]))
        )
    model = build_network(params, task)
    for variable, value in zip(model.trainable_variables, loop.weights(), strict=True):
        variable.assign(value)
    trial.save_model(model if task.forecasts else with_probabilities(model), example=loop.example(5))
    return metrics


def predict(params: RNNParams, trial: Trial) -> Array:
    """Return the class that the network of the trial's checkpoint predicts for each sample of the validation set."""
    dataset = _dataset_of(trial)
    if dataset.task.forecasts:
        raise ValueError(f"{dataset.type} has no classes to predict")
    if trial.checkpoint is None:
        raise ValueError(f"trial {trial.number} has no checkpoint")
    return _start(params, trial, trial.checkpoint, _data_of(trial)).validation_outputs().argmax(axis=1)


train_rnn.evaluate = evaluate  # type: ignore[attr-defined]
train_rnn.predict = predict  # type: ignore[attr-defined]
train_rnn.retrain = retrain  # type: ignore[attr-defined]
train_rnn.as_script = as_script  # type: ignore[attr-defined]
train_rnn.work = work  # type: ignore[attr-defined]


def _threads(trial: Trial) -> int:
    """Return how many threads a trial may compute with; one with half a CPU has one, as if it had a whole one."""
    return max(1, int(trial.resources.cpus))


def _start(params: RNNParams, trial: Trial, checkpoint: Path | None, data: Arrays) -> Loop:
    """Return the training loop of a trial on some data, at its start or restored from a checkpoint.

    It makes as many gradient steps as on the trial's own data.
    """
    from sweeper.training.engine import runtime

    threads = _threads(trial)
    runtime.start_backend(threads, params.backend, trial.resources.gpus)
    runtime.use_threads(threads)
    from sweeper.training.engine.loop import Loop, StepPlan, device_data
    from sweeper.training.engine.program import Program

    dataset = _dataset_of(trial)
    plan = StepPlan.of(trial, len(trial.data.y_train), params.batch_size)
    program = Program(params, dataset.task, threads)
    loop = Loop(params, program, device_data(data), plan, trial.seed if params.seed is None else params.seed)
    if checkpoint is not None:
        loop.restore(checkpoint)
    return loop


def _data_of(trial: Trial) -> Arrays:
    _dataset_of(trial)
    return trial.data


def _dataset_of(trial: Trial) -> AnyDataset:
    if trial.dataset is None:
        raise InputError("train_rnn needs a dataset, but the sweep names none; add `dataset: {type: mnist}`")
    return trial.dataset
