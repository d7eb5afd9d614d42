"""Sides that `training` compares. Each runs in a process of its own, and works when a request arrives."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

IMAGES, VALIDATION = 10_000, 5_000
_MATRIX_SIZE, _PRODUCTS = 1024, 100
_LAYERS = {"simple_rnn": "SimpleRNN", "gru": "GRU", "lstm": "LSTM"}


@dataclass(frozen=True)
class Row:
    """One network, and the number of threads that it is trained with."""

    cell: str
    units: int
    batch_size: int
    threads: int


class Side:
    """A process that does one thing for each request, and answers with the seconds that it took."""

    def __init__(self, serve: Callable[..., None], *arguments: Any) -> None:
        self._pipe, theirs = get_context("spawn").Pipe()
        self._process = get_context("spawn").Process(target=serve, args=(*arguments, theirs), daemon=True)
        self._process.start()
        self.first = self.time()

    def time(self, request: Any = 0) -> Any:
        """Send a request and wait for the answer; see `_serve`."""
        self._pipe.send(request)
        return self._pipe.recv()

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()


def sweeper(row: Row, backend: str, pipe: Connection) -> None:
    """Serve epochs of sweeper's own training: their seconds, or the accuracy after some epochs from a seed."""
    from sweeper.datasets.catalog import Mnist
    from sweeper.training import RNNParams
    from sweeper.training.engine import runtime

    runtime.start_backend(row.threads, backend)
    from sweeper.training.engine.loop import Loop, StepPlan, device_data
    from sweeper.training.engine.program import Program

    params = RNNParams(cell=row.cell, units=row.units, batch_size=row.batch_size, backend=backend)
    data = device_data(Mnist(train=IMAGES, validation=VALIDATION).load())
    program = Program(params, Mnist().task, row.threads)
    steps = IMAGES // row.batch_size
    loop = Loop(params, program, data, StepPlan(10**6, 1, 1), 0)

    def advance(loop: Loop, count: int) -> None:
        indices = loop.order.batches(loop.step, count)
        rates = [params.learning_rate] * count
        loop.state, _, _ = program.train(
            loop.state, data.x_train, data.y_train, first=loop.step, indices=indices, rates=rates
        )
        loop.step += count

    def learn(epochs: int, seed: int) -> float:
        loop = Loop(params, program, data, StepPlan(10**6, 1, 1), seed)
        for _ in range(epochs):
            advance(loop, steps)
        return program.evaluate(loop.state.weights, data.validation)[1]

    _serve(lambda: advance(loop, steps), learn, pipe)


def keras_fit(row: Row, backend: str, pipe: Connection) -> None:
    """Serve the same as most people would write it: floats in NumPy arrays, `compile`, `fit`."""
    limit(backend, row.threads)
    import keras

    from sweeper.datasets.catalog import Mnist

    data = Mnist(train=IMAGES, validation=VALIDATION).load()
    x, x_val = (pixels.astype("float32") / 255 for pixels in (data.x_train, data.x_val))

    def build(seed: int) -> Any:
        keras.utils.set_random_seed(seed)
        layer = getattr(keras.layers, _LAYERS[row.cell])(row.units)
        model = keras.Sequential([keras.Input(data.x_train.shape[1:]), layer, keras.layers.Dense(10)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
        return model

    def learn(epochs: int, seed: int) -> float:
        model = build(seed)
        model.fit(x, data.y_train, batch_size=row.batch_size, epochs=epochs, verbose=0)
        return float(model.evaluate(x_val, data.y_val, verbose=0)[1])

    model, count = build(0), IMAGES // row.batch_size * row.batch_size
    _serve(lambda: model.fit(x[:count], data.y_train[:count], batch_size=row.batch_size, verbose=0), learn, pipe)


def products(backend: str, threads: int, pipe: Connection) -> None:
    """Serve a hundred products of two square matrices: their seconds."""
    limit(backend, threads)
    import keras
    import numpy as np

    matrix = keras.ops.convert_to_tensor(
        np.random.default_rng(0).normal(size=(_MATRIX_SIZE, _MATRIX_SIZE)).astype("float32")
    )
    if backend == "jax":
        import jax

        multiply = jax.jit(keras.ops.matmul)
    else:
        multiply = keras.ops.matmul

    def run() -> None:
        for _ in range(_PRODUCTS):
            product = multiply(matrix, matrix)
        np.asarray(product)

    _serve(run, None, pipe)


def peak(seconds: float) -> float:
    """Return the operations per second, from the seconds that `products` measures."""
    return _PRODUCTS * 2 * _MATRIX_SIZE**3 / seconds


def limit(backend: str, threads: int) -> None:
    """Choose the backend and its threads; called before Keras is imported."""
    os.environ.update(KERAS_BACKEND=backend, NPROC=str(threads), TF_CPP_MIN_LOG_LEVEL="3")
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


def _serve(run: Callable[[], object], learn: Callable[[int, int], float] | None, pipe: Connection) -> None:
    """Answer requests until the pipe closes: 0 with the seconds of `run`, (epochs, seed) with the result of `learn`."""
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        if request and learn is not None:
            pipe.send(learn(*request))
            continue
        started = time.perf_counter()
        run()
        pipe.send(time.perf_counter() - started)
