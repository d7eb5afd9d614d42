"""The backend of Keras: started once per process, quiet, deterministic, with as many threads as a trial has CPUs."""

from __future__ import annotations

import functools
import gc
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_CHATTER = re.compile(rb"WARNING: All log messages before absl|[IW]0000 |[IW]\d{4} \d\d:\d\d:\d\d\.\d+ |E0000 .*cuInit")


GPU_MEMORY_FRACTION = 0.9  # of a share of a GPU's memory is computed with; the driver needs some for each process


_ALIGNMENT = 64  # of the memory that TensorFlow computes on


@functools.cache
def start_backend(cpus: float, backend: str = "tensorflow", gpus: float | None = None) -> None:
    """Import Keras and its backend, and settle what can only be settled before the first operation.

    The first call of a process decides about its threads and its GPU: neither backend can change them later.

    Args:
        gpus: the GPUs, or the share of one, that are to be used; None: all that can be seen.
    """
    os.environ["KERAS_BACKEND"] = backend
    threads = max(1, int(cpus))
    if backend == "jax":
        _prepare_jax(threads, gpus)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _without_chatter(), _without_collections(), warnings.catch_warnings():
        # What the packages below say to each other when they are imported is no concern of a sweep.
        warnings.simplefilter("ignore")
        import keras
    if keras.backend.backend() != backend:
        raise RuntimeError(
            f"a worker that began with the {keras.backend.backend()} backend cannot go on with {backend}: "
            "`backend` must be the same in all trials of a sweep"
        )
    if backend == "tensorflow":
        _configure_tensorflow(threads, gpus)


def _prepare_jax(threads: int, gpus: float | None) -> None:
    if gpus == 0:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    elif gpus is not None and gpus < 1:
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{gpus * GPU_MEMORY_FRACTION:.3f}")
    # Without, every worker computes on all cores, which is slower than one trial for each; XLA has no better switch.
    os.environ.setdefault("NPROC", str(threads))
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        # What was compiled once serves the other workers and later sweeps: XLA takes a second for each width.
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "sweeper" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _configure_tensorflow(threads: int, share: float | None) -> None:
    with _without_chatter(), _without_collections():
        import tensorflow as tf

    # TensorFlow warns of functions traced repeatedly, which is what a search over structures consists of.
    tf.get_logger().setLevel("ERROR")
    tf.config.experimental.enable_op_determinism()
    with _without_chatter():
        gpus = tf.config.list_physical_devices("GPU")
    if share == 0:
        tf.config.set_visible_devices([], "GPU")
    memory = _gpu_memory() if gpus and share is not None and 0 < share < 1 else None
    for gpu in gpus:
        if memory is None:
            tf.config.experimental.set_memory_growth(gpu, True)
        else:
            limit = tf.config.LogicalDeviceConfiguration(memory_limit=int(memory * (share or 1) * GPU_MEMORY_FRACTION))
            tf.config.set_logical_device_configuration(gpu, [limit])
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:  # TensorFlow runs already: whoever started it has chosen the threads
        pass
    with _without_chatter():  # what it says when it finds no GPU
        tf.config.list_logical_devices()


def _gpu_memory() -> int | None:
    """The megabytes of the GPU that this process may use; TensorFlow tells of what it took, not of what there is."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0] or "0"
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits", f"--id={shown}"]
    try:
        return int(subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


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


def is_jax() -> bool:
    """Whether Keras runs on JAX in this process."""
    import keras

    return str(keras.backend.backend()) == "jax"


def has_cudnn() -> bool:
    """Whether Keras's recurrent layers have kernels of their own here."""
    if is_jax():
        return False
    import tensorflow as tf

    return bool(tf.config.list_logical_devices("GPU"))


def tensor(values: Any, dtype: str = "float32") -> Any:
    """Values on the device."""
    import numpy as np

    array = np.asarray(values, dtype)
    if is_jax():
        import jax

        return jax.device_put(array)
    import tensorflow as tf

    return tf.constant(array)


def tensor_in_place(array: Any) -> Any:
    """A tensor in the memory of an array, where the device can compute on it there; nothing writes to either.

    DLPack cannot say that memory is read-only, as what workers share is, so numpy refuses to hand it over as it is.
    """
    import numpy as np

    if is_jax() or has_cudnn() or array.ctypes.data % _ALIGNMENT or not array.flags.c_contiguous:
        return tensor(array, array.dtype)
    import tensorflow as tf

    address = {**array.__array_interface__, "data": (array.ctypes.data, False)}
    alias = np.asarray(SimpleNamespace(__array_interface__=address, owner=array))
    return tf.experimental.dlpack.from_dlpack(alias.__dlpack__())


def spec(shape: tuple[int | None, ...], dtype: str = "float32") -> Any:
    """A place for an argument of `compile_function`."""
    if is_jax():
        return None
    import tensorflow as tf

    return tf.TensorSpec(shape, dtype)


def compile_function(function: Callable[..., Any], signature: tuple[Any, ...]) -> Any:
    """The function as a graph; only TensorFlow's needs a signature."""
    if is_jax():
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, autograph=False, input_signature=signature)


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
