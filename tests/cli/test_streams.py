from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweeper.study.open import read_study

ROOT = Path(__file__).parents[2]
SWEEPER = [sys.executable, "-m", "sweeper"]
FILE = """\
name: s
trainable: tests.samples:slow_count
objective: {metric: score}
budget: {trials: 2, epochs: 4, parallel: 1}
pruner: {type: none}
space: {height: {type: float, low: 0.0, high: 1.0}}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "s.yaml").write_text(FILE)
    return tmp_path


def shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=240)


def sweeper(arguments: str) -> str:
    return f"{sys.executable} -m sweeper {arguments}"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")
def test_full_disk_under_stdout_is_reported_in_one_line() -> None:
    done = shell(sweeper("schema > /dev/full"))
    assert done.returncode == os.EX_IOERR
    assert done.stderr == "error: The results could not be written to stdout (No space left on device).\n"


@pytest.mark.parametrize("arguments", ["schema", "--help", "validate s.yaml"])
def test_reader_that_goes_away_does_not_change_the_exit_code(arguments: str) -> None:
    done = shell(f"{sweeper(arguments)} > >(exec true); exit $?")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "2</dev/null", "2> >(exec true)"])
def test_unusable_stderr_does_not_change_the_exit_code(redirection: str) -> None:
    assert shell(sweeper(f"validate nothing.yaml {redirection}")).returncode == 2


def test_results_for_a_stream_open_for_reading_are_reported() -> None:
    done = shell(sweeper("schema 1</dev/null"))
    assert done.returncode == os.EX_IOERR and done.stderr.count("\n") == 1


@pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="needs Linux")
def test_full_pipe_that_does_not_block_gets_all_results() -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    with subprocess.Popen([*SWEEPER, "schema"], stdout=writer) as process, os.fdopen(reader) as results:
        os.close(writer)
        assert results.read() == shell(sweeper("schema")).stdout
    assert process.returncode == 0


def test_log_of_a_library_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASS", "hunter2")
    code = (
        "from sweeper.cli.streams import unfailing_streams\n"
        "from mlflow.store.db.utils import _logger\n"
        "with unfailing_streams():\n"
        "    _logger.critical(\"SQLAlchemy database could not be created: failed to resolve host 'hunter2@db'\")\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "failed to resolve host '***@db'" in done.stderr and "hunter2" not in done.stderr


@pytest.mark.long
def test_sweep_runs_without_any_standard_stream() -> None:
    done = shell(sweeper("run s.yaml <&- >&- 2>&-"))
    assert done.returncode == 0
    assert [row.state for row in read_study("s", "sqlite:///sweeper.db").rows()] == ["COMPLETE"] * 2


def test_interrupted_sweep_whose_reader_is_gone_exits_with_130() -> None:
    with subprocess.Popen(
        [*SWEEPER, "run", "s.yaml", "--epochs", "500"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        while "Running 1 trial" not in process.stderr.readline():
            pass
        process.stdout.close()
        process.stderr.close()
        while not list(Path("sweeps/s/trials").glob("*/attempt-*")):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130
