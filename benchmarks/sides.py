"""The sides that `training` compares: each lives in a process of its own and trains when it is told to."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

IMAGES, VALIDATION = 10_000, 5_000
_SIZE = 1024
_LAYERS = {"simple_rnn": "SimpleRNN", "gru": "GRU", "lstm": "LSTM"}


@dataclass(frozen=True)
class Row:
    """One network, and with how many threads it is trained."""

    cell: str
    units: int
    batch_size: int
    threads: int


class Side:
    """A process that does one thing, again and again, and says how long each time took."""

    def __init__(self, serve: Callable[..., None], *arguments: Any) -> None:
        self._pipe, theirs = get_context("spawn").Pipe()
        self._process = get_context("spawn").Process(target=serve, args=(*arguments, theirs), daemon=True)
        self._process.start()
        self.first = self.time()

    def time(self, order: Any = 0) -> Any:
        self._pipe.send(order)
        return self._pipe.recv()

    def close(self) -> None:
        self._process.terminate()
        self._process.join()


def sweeper(row: Row, backend: str, pipe: Connection) -> None:
    """An epoch of sweeper's own training: the seconds it takes; asked for epochs and a seed, the accuracy."""
    from sweeper.datasets.catalog import Mnist
    from sweeper.training import RNNParams
    from sweeper.training.engine import runtime

    runtime.start_backend(row.threads, backend)
    from sweeper.training.engine.loop import Loop, StepPlan, device_data
    from sweeper.training.engine.program import Program

    params = RNNParams(cell=row.cell, units=row.units, batch_size=row.batch_size, backend=backend)
    data = device_data(Mnist(train=IMAGES, validation=VALIDATION).load())
    program = Program(params, Mnist().task)
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
    """The same as anyone would write it: floats in NumPy arrays, `compile`, `fit`."""
    _limit(backend, row.threads)
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
    """Products of two square matrices for as long as an epoch takes: the seconds for one of them."""
    _limit(backend, threads)
    import keras
    import numpy as np

    matrix = keras.ops.convert_to_tensor(np.random.default_rng(0).normal(size=(_SIZE, _SIZE)).astype("float32"))
    if backend == "jax":
        import jax

        multiply = jax.jit(keras.ops.matmul)
    else:
        multiply = keras.ops.matmul
    count = 100

    def run() -> None:
        for _ in range(count):
            product = multiply(matrix, matrix)
        np.asarray(product)

    _serve(run, None, pipe)


def peak(seconds: float) -> float:
    """Operations per second, from what `products` measures."""
    return 100 * 2 * _SIZE**3 / seconds


def _limit(backend: str, threads: int) -> None:
    os.environ.update(KERAS_BACKEND=backend, NPROC=str(threads), TF_CPP_MIN_LOG_LEVEL="3")
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


def _serve(run: Callable[[], object], learn: Callable[[int, int], float] | None, pipe: Connection) -> None:
    while True:
        try:
            order = pipe.recv()
        except EOFError:
            return
        if order and learn is not None:
            pipe.send(learn(*order))
            continue
        started = time.perf_counter()
        run()
        pipe.send(time.perf_counter() - started)
