from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.training.engine import runtime

JAX = """
import os
from sweeper.training.engine import runtime
runtime.start_backend(1, "jax", {gpus})
print(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION"), os.environ.get("JAX_PLATFORMS"))
"""


@pytest.mark.parametrize(("gpus", "said"), [(0.25, "0.225 None"), (0, "None cpu")])
def test_jax_takes_its_share_of_a_gpu_and_none_where_there_is_none(
    gpus: float, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jax")
    for name in ("XLA_PYTHON_CLIENT_MEM_FRACTION", "JAX_PLATFORMS"):  # which a test of this process may have set
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run([sys.executable, "-c", JAX.format(gpus=gpus)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == said


def test_the_memory_of_the_gpu_that_a_worker_was_given_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runtime._gpu_memory_mb() is None
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\ncase "$*" in *--id=GPU-5e*) echo 81559 ;; *--id=0*) echo 16384 ;; *) exit 6 ;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5e,GPU-6f")
    assert runtime._gpu_memory_mb() == 81559
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert runtime._gpu_memory_mb() == 16384
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert runtime._gpu_memory_mb() is None
