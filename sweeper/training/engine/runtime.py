"""Backend of Keras: started once per process, quiet, deterministic, with as many threads as a trial has CPUs."""

from __future__ import annotations

import functools
import gc
import importlib
import os
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sweeper.core.environment import without_chatter


class LazyModule:
    """A module that is imported when an attribute of it is first used.

    Keras and its backends take seconds to import, and `sweeper validate` reads tables of modules that use them.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


keras, ops, tensorflow, jax = map(LazyModule, ("keras", "keras.ops", "tensorflow", "jax"))

GPU_MEMORY_FRACTION = 0.9
"""Fraction of a trial's share of GPU memory that the backend may allocate; the GPU's driver needs some per process."""

to_forget: list[Callable[[], None]] = []
"""Functions that forget the tensors and graphs that this process keeps, for when TensorFlow starts again."""

_ALIGNMENT_BYTES = 64
"""Alignment of memory that TensorFlow can compute on without a copy."""


@functools.cache
def start_backend(cpus: float, backend: str = "tensorflow", gpus: float | None = None) -> None:
    """Import Keras and its backend, and set what can only be set before the first operation.

    The first call in a process decides its threads and its GPUs. `use_threads` changes the threads later.

    Args:
        cpus: threads that the backend computes with, at least 1.
        gpus: GPUs that it computes with, or the share of one; None: all visible ones.

    Raises:
        RuntimeError: Keras runs on another backend in this process.
    """
    os.environ["KERAS_BACKEND"] = backend
    threads = max(1, int(cpus))
    if backend == "jax":
        _prepare_jax(threads, gpus)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with without_chatter(), _without_collections(), warnings.catch_warnings():
        # Importing Keras warns about deprecations between the packages below it, which no user of a sweep can mend.
        warnings.simplefilter("ignore")
        import keras
    if keras.backend.backend() != backend:
        raise RuntimeError(
            f"this worker runs Keras on {keras.backend.backend()} and cannot change to {backend}; "
            "`backend` must be the same in all trials of a sweep"
        )
    if backend == "tensorflow":
        _configure_tensorflow(threads, gpus)


def use_threads(threads: int) -> None:
    """Let TensorFlow compute with so many threads from now on. Tensors and graphs of before cannot be used any more.

    It has no public way to do so in a process that has computed. More threads than CPUs from the beginning cost 7 to 15
    % where every CPU has a trial. Nothing changes on JAX, on a GPU, or where somebody else has started TensorFlow.
    """
    if is_jax() or tensorflow.config.threading.get_inter_op_parallelism_threads() in (0, threads):
        return
    from tensorflow.python.eager import context

    if not hasattr(context, "_reset_context") or tensorflow.config.get_visible_devices("GPU"):
        return
    for forget in to_forget:
        forget()
    keras.utils.clear_session()
    gc.collect()
    context._reset_context()
    _configure_tensorflow(threads, gpus=0)


def _prepare_jax(threads: int, gpus: float | None) -> None:
    if gpus == 0:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    elif gpus is not None and gpus < 1:
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{gpus * GPU_MEMORY_FRACTION:.3f}")
    # Without NPROC every worker computes on all cores, which is slower than one trial per core; XLA has no other way.
    os.environ.setdefault("NPROC", str(threads))
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        # The cache serves the other workers and later sweeps: XLA takes about a second for each width.
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "sweeper" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _configure_tensorflow(threads: int, gpus: float | None) -> None:
    with without_chatter(), _without_collections():
        import tensorflow as tf

    # TensorFlow warns about functions that are traced repeatedly, which a search over structures cannot avoid.
    tf.get_logger().setLevel("ERROR")
    tf.config.experimental.enable_op_determinism()
    with without_chatter():
        devices = tf.config.list_physical_devices("GPU")
    if gpus == 0:
        tf.config.set_visible_devices([], "GPU")
    memory_mb = _gpu_memory_mb() if devices and gpus is not None and 0 < gpus < 1 else None
    for device in devices:
        if memory_mb is None:
            tf.config.experimental.set_memory_growth(device, True)
        else:
            limit_mb = int(memory_mb * (gpus or 1) * GPU_MEMORY_FRACTION)
            limit = tf.config.LogicalDeviceConfiguration(memory_limit=limit_mb)
            tf.config.set_logical_device_configuration(device, [limit])
    try:
        # Each thread has a shard of the batch; within one operation, more threads would not help (see shards.py).
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError:  # TensorFlow runs already, with the threads of whoever started it
        pass
    with without_chatter():  # it complains when it finds no GPU
        tf.config.list_logical_devices()


def _gpu_memory_mb() -> int | None:
    """Return the memory of this process's GPU in MiB, None if unknown. TensorFlow only reports what it allocated."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0] or "0"
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits", f"--id={shown}"]
    try:
        return int(subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


@contextmanager
def _without_collections() -> Iterator[None]:
    """Exclude what an import creates from garbage collection: none of it is freed, and scanning takes a third."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def is_jax() -> bool:
    """Return whether Keras runs on JAX in this process."""
    return str(keras.backend.backend()) == "jax"


def has_cudnn() -> bool:
    """Return whether Keras's recurrent layers run as cuDNN kernels here: with TensorFlow on a GPU."""
    return not is_jax() and bool(tensorflow.config.list_logical_devices("GPU"))


def tensor(values: Any, dtype: str = "float32") -> Any:
    """Copy values into a tensor on the device."""
    import numpy as np

    array = np.asarray(values, dtype)
    return jax.device_put(array) if is_jax() else tensorflow.constant(array)


def tensor_in_place(array: Any) -> Any:
    """Return a tensor that uses the array's own memory, if the device can; else a copy. Nothing may write to either.

    DLPack has no flag for read-only memory, as the workers' shared memory is, so numpy refuses to export such an array.
    An alias that claims to be writable is exported in its place.
    """
    import numpy as np

    if is_jax() or has_cudnn() or array.ctypes.data % _ALIGNMENT_BYTES or not array.flags.c_contiguous:
        return tensor(array, array.dtype)
    address = {**array.__array_interface__, "data": (array.ctypes.data, False)}
    alias = np.asarray(SimpleNamespace(__array_interface__=address, owner=array))
    return tensorflow.experimental.dlpack.from_dlpack(alias.__dlpack__())


def spec(shape: tuple[int | None, ...], dtype: str = "float32") -> Any:
    """Return the type of one argument for `compile_function`; JAX needs none."""
    return None if is_jax() else tensorflow.TensorSpec(shape, dtype)


def compile_function(function: Callable[..., Any], signature: tuple[Any, ...]) -> Any:
    """Compile a function when it is first called. JAX ignores the signature: it compiles once for each shape."""
    if is_jax():
        return jax.jit(function)
    return tensorflow.function(function, autograph=False, input_signature=signature)
