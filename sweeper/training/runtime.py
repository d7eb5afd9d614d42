"""Starts TensorFlow, once per process: quiet, deterministic, and with as many threads as a trial has CPUs."""

from __future__ import annotations

import functools
import gc
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_CHATTER = re.compile(rb"WARNING: All log messages before absl|[IW]0000 |[IW]\d{4} \d\d:\d\d:\d\d\.\d+ ")


@functools.cache
def start(cpus: float) -> None:
    """Import TensorFlow and Keras, and settle what can only be settled before the first operation.

    The first call of a process decides about its threads: TensorFlow cannot change them later.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with _without_chatter(), _without_collections(), warnings.catch_warnings():
        # What the packages below say to each other when they are imported is no concern of a sweep.
        warnings.simplefilter("ignore")
        import keras
        import tensorflow as tf
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"Keras was loaded with the {keras.backend.backend()} backend before; train_rnn needs tensorflow"
        )
    # TensorFlow warns of functions traced repeatedly, which is what a search over widths consists of.
    tf.get_logger().setLevel("ERROR")
    tf.config.experimental.enable_op_determinism()
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    try:
        tf.config.threading.set_intra_op_parallelism_threads(max(1, int(cpus)))
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:  # TensorFlow runs already: whoever started it has chosen the threads
        pass


@contextmanager
def _without_collections() -> Iterator[None]:
    """Spare the garbage collector what an import makes: it stays to the end, and looking at it takes a third of it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def has_gpu() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_logical_devices("GPU"))


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Hold back what C++ writes to stderr, and then pass on all but TensorFlow's greetings.

    They are written before its logging listens to TF_CPP_MIN_LOG_LEVEL.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            for line in held:
                if not _CHATTER.match(line):
                    os.write(2, line)
