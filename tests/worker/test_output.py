from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweeper.core.sweep_folder import SweepFolder
from sweeper.worker import output
from sweeper.worker.output import kept_output, metrics_in


@pytest.mark.parametrize(
    ("line", "metrics"),
    [
        ("val_accuracy=0.93", {"val_accuracy": 0.93}),
        ("loss=1e-3, val_accuracy=0.93; epoch=3\n", {"loss": 0.001, "val_accuracy": 0.93, "epoch": 3.0}),
        ("val/acc=nan", {"val/acc": pytest.approx(float("nan"), nan_ok=True)}),
        ('{"val_accuracy": 0.93, "phase": "val", "ok": true}', {"val_accuracy": 0.93}),
        (" 50%|#####     | 5/10\rval_accuracy=0.93", {"val_accuracy": 0.93}),
        ("epoch 3: val_accuracy=0.93", {}),
        ("val_accuracy = 0.93", {}),
        ("INFO val_accuracy=0.93", {}),
        ("lr=0.1 optimizer=adam", {}),
        ("14/14 - 0s - 5ms/step - val_accuracy: 0.93 - val_loss: 0.3", {}),
        ("{'val_accuracy': 0.93}", {}),
        ("[0.93]", {}),
        ("0.93", {}),
        ("", {}),
        ("=3", {}),
        ("{" * 100_000, {}),
    ],
)
def test_line_is_a_report_if_it_has_metrics_only(line: str, metrics: dict[str, float]) -> None:
    assert metrics_in(line) == metrics


PRINT = """
import ctypes, os, subprocess, sys
from pathlib import Path
from sweeper.worker.output import kept_output
folder = Path("trial")
notes = []
for attempt in (1, 2):
    print("before", attempt)
    with kept_output(folder, attempt, notes.append):
        print("from Python", attempt)
        print("to stderr", file=sys.stderr)
        os.write(1, b"from the descriptor\\n")
        libc = ctypes.CDLL(None)
        libc.printf(b"from C\\n")
        subprocess.run(["echo", "from a child"])
        if attempt == 2 and len(sys.argv) > 1:
            print("no end of line", end="")
            os.kill(os.getpid(), 9)
print("after", notes)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.run(
        [sys.executable, "-c", PRINT, *arguments], env=environment, capture_output=True, text=True, timeout=60
    )


def test_output_of_python_c_and_children_is_kept_per_attempt() -> None:
    done = run()
    assert done.stdout.splitlines() == ["before 1", "before 2", "after []"], done.stderr
    for attempt in (1, 2):
        lines = Path(f"trial/output-{attempt:03d}.txt").read_text().splitlines()
        assert sorted(lines) == sorted(
            [f"from Python {attempt}", "to stderr", "from the descriptor", "from C", "from a child"]
        )
    assert Path("trial/output-001.txt").stat().st_mode & 0o077 == 0


def test_nothing_that_was_printed_is_lost_when_the_process_is_killed() -> None:
    assert run("killed").returncode == -9
    text = Path("trial/output-002.txt").read_text()
    assert "from Python 2" in text and text.endswith("no end of line")


def test_trial_that_prints_nothing_leaves_no_file(tmp_path: Path) -> None:
    with kept_output(tmp_path / "trial", 1, print):
        pass
    assert not (tmp_path / "trial").exists()


def test_output_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial/output-001.txt").symlink_to(tmp_path / "precious")
    notes: list[str] = []
    with kept_output(tmp_path / "trial", 1, notes.append):
        os.write(1, b"elsewhere\n")
    assert (tmp_path / "precious").read_text() == "mine"
    assert notes[0].startswith("What the trial prints is not kept (")


def test_output_is_bounded_and_keeps_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "MAX_FILE_BYTES", 10_000)
    monkeypatch.setattr(output, "CHECK_INTERVAL_S", 0.01)
    place = SweepFolder(tmp_path)
    (tmp_path / "trials").mkdir()
    with kept_output(place.trial(0), 1, print):
        for number in range(3000):
            print(f"line {number}")
            if number % 100 == 0:
                time.sleep(0.005)
    old, new = place.outputs(0)
    assert [old.name, new.name] == ["output-001.old.txt", "output-001.txt"]
    assert old.stat().st_size <= 20_000 and new.stat().st_size <= 20_000
    assert "line 2999" in new.read_text() and "before this are in output-001.old.txt]" in new.read_text()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a full disk is made with /dev/full")
def test_full_disk_is_no_error_of_code_that_prints() -> None:
    saved = os.dup(1)
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        os.dup2(full, 1)
        print("lost", file=output._UnfailingText(1))
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(full)
