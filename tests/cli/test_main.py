from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from ruamel.yaml import YAML

from sweeper.analysis.result import SweepResult
from sweeper.cli import main as cli
from sweeper.cli import options
from sweeper.cli.run import exit_code
from sweeper.core.errors import InputError, StoppedError, StopReason, StorageError
from sweeper.core.trials import Failure, Report
from sweeper.study.open import open_study
from sweeper.study.study import SweepStudy

ROOT = Path(__file__).parents[2]
HEAVY = ("keras", "mlflow", "numpy", "optuna", "pandas", "ray", "sklearn", "sqlalchemy", "tensorflow")
FILE = """\
name: climbing
trainable: tests.samples:climb
objective: {metric: score, direction: maximize}
budget: {trials: 4, epochs: 9, parallel: 1}
sampler: {type: random}
pruner: {type: none}
space:
  cell: lstm
  height: {type: float, low: 0.0, high: 1.0}
"""

MakeSweep = Callable[..., Any]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "climb.yaml"
    path.write_text(FILE)
    return path


@pytest.fixture
def finished(make_sweep: MakeSweep) -> str:
    """Record a sweep with two complete trials and a failed one in the default database; return its name."""
    sweep = make_sweep(space={"cell": "lstm", "height": {"type": "float", "low": 0.0, "high": 1.0}})
    with open_study(sweep) as study:
        for value in (0.5, 0.75):
            _complete(study, value)
        failed = study.ask()
        study.report(failed.number, Report(1, time.time(), {"score": 0.1}))
        study.fail(failed.number, Failure("diverged", "diverged (loss=nan at epoch 2)"))
    return str(sweep.name)


def _complete(study: SweepStudy, value: float) -> None:
    row = study.ask()
    for step in range(1, 10):
        study.report(row.number, Report(step, time.time(), {"score": value * step / 9}))


def sweeper(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the real command in a process of its own."""
    command = [sys.executable, "-m", "sweeper", *map(str, arguments)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=240)


def modules_after(*arguments: str) -> tuple[set[str], int]:
    """Return the heavy packages that a verb imports, and the number of all modules."""
    code = (
        "import sys\nfrom sweeper.cli.main import main\ncode = main(sys.argv[1:])\n"
        "print(*sys.modules, file=sys.stderr)\nsys.exit(code)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    modules = done.stderr.split()
    return {name.partition(".")[0] for name in modules} & set(HEAVY), len(modules)


@pytest.mark.parametrize(
    ("arguments", "limit"),
    [("--version", 300), ("--help", 450), ("run --help", 550), ("schema", 450), ("validate climb.yaml", 550)],
)
def test_light_verbs_import_few_modules(file: Path, arguments: str, limit: int) -> None:
    heavy, count = modules_after(*arguments.split())
    assert heavy == set() and count < limit


def test_help_documents_every_verb_and_every_exit_code() -> None:
    text = sweeper("--help").stdout
    for verb in cli.VERBS:
        assert f" {verb} " in text
    for code, meaning in cli.EXIT_CODES.items():
        assert f"{code}  {meaning}" in text


def test_help_shows_every_verb_in_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    grouped = [verb for verbs in cli.PANELS.values() for verb in verbs if verb in cli.VERBS]
    assert sorted(grouped) == sorted(cli.VERBS)
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    places = [text.index(f" {panel} ") for panel in cli.PANELS]
    assert places == sorted(places)


def test_help_is_shown_without_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "Usage: sweeper" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rum"], "No such command 'rum'"),
        (["run"], "Missing argument 'SPACE.yaml'; see sweeper run --help"),
        (["run", "x.yaml", "--trails", "3"], "--trials"),
        (["ui", "--port", "many"], "--port"),
        (["run", "x.yaml", "--set", "trials"], "--set 'trials' is not KEY=VALUE"),
        (["run", "missing.yaml"], "missing.yaml"),
        (["show", "nothing"], "sweeper.db"),
    ],
)
def test_wrong_use_is_one_line_on_stderr_and_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    text, errors = capsys.readouterr()
    assert text == ""
    assert errors.startswith("error: ") and message in errors
    assert len(errors.splitlines()) == 1


def test_traceback_is_shown_with_debug_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "nothing"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert cli.main(["show", "nothing", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_every_verb_takes_debug(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in cli.VERBS:
        assert cli.main([verb, "--help"]) == 0
        assert "--debug" in capsys.readouterr().out, verb
    assert cli.main(["schema", "--debug"]) == 0


def test_timeout_during_an_outage_is_a_note(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def time_out(*_: object) -> None:
        raise StoppedError(StopReason.TIMEOUT, "the database was unavailable")

    monkeypatch.setattr("sweeper.study.open.list_sweeps", time_out)
    assert cli.main(["list"]) == 0
    errors = capsys.readouterr().err
    assert errors.startswith("note: ") and "the database was unavailable" in errors


def test_unexpected_error_is_one_line_with_a_hint_and_exit_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oh no")

    monkeypatch.setattr("sweeper.study.open.list_sweeps", broken)
    assert cli.main(["list"]) == 1
    assert capsys.readouterr().err == "error: ZeroDivisionError: oh no (--debug shows where)\n"


def test_flags_become_keys_of_the_sweep_and_override_what_is_set() -> None:
    flags = {"budget.trials": "3", "seed": "0", "name": "2024", "storage": None}
    assert options.overrides(["budget.trials=9", "space.cell=a=b"], flags) == {
        "budget.trials": "3",
        "space.cell": "a=b",
        "seed": "0",
        "name": '"2024"',
    }


@pytest.mark.parametrize("setting", ["budget.trials", "=5", ""])
def test_setting_without_a_key_and_a_value_is_refused(setting: str) -> None:
    with pytest.raises(InputError, match="KEY=VALUE"):
        options.overrides([setting], {})


@pytest.mark.parametrize(
    ("stopped", "counts", "code"),
    [
        (None, {"COMPLETE": 3}, 0),
        (None, {"COMPLETE": 3, "FAIL": 1}, 3),
        (None, {"PRUNED": 1, "FAIL": 2}, 1),
        (StopReason.TIMEOUT, {"COMPLETE": 3}, 0),
        (StopReason.INTERRUPTED, {"COMPLETE": 3, "FAIL": 1}, 130),
        (StopReason.TERMINATED, {}, 143),
    ],
)
def test_exit_code_shows_how_the_sweep_ended(
    make_sweep: MakeSweep, stopped: StopReason | None, counts: dict[str, int], code: int
) -> None:
    result = SweepResult("x", Path(), make_sweep(), counts, (), 0, 0, None, None, stopped, 0.0, 0, 0, "sqlite:///x.db")
    assert exit_code(result) == code
    in_part = replace(result, is_delivered=False)  # MLflow lacks something
    assert exit_code(in_part) == (69 if stopped is None and code != 1 else code)


def test_validate_summarises_each_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", str(file), str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{file}  climbing: 4 trials of 9 epochs, 1 parameters, random + none, maximize score"] * 2


def test_validate_reports_every_problem_of_every_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = file.with_name("bad.yaml")
    bad.write_text(FILE.replace("trials: 4", "trails: 4").replace("maximize", "upwards"))
    missing = file.with_name("missing.yaml")
    assert cli.main(["validate", str(bad), str(file), str(missing)]) == 2
    text, errors = capsys.readouterr()
    assert str(file) in text and str(bad) not in text
    assert "trails" in errors and "upwards" in errors and "missing.yaml" in errors
    assert all(line.startswith("error: ") for line in errors.splitlines())


def test_validate_as_json_has_the_position_of_every_problem(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = file.with_name("bad.yaml")
    bad.write_text(FILE.replace("maximize", "upwards"))
    assert cli.main(["validate", str(file), str(bad), "--json"]) == 2
    good, faulty = json.loads(capsys.readouterr().out)
    assert good["ok"] and good["problems"] == []
    assert not faulty["ok"]
    assert faulty["problems"][0]["key"] == "objective.direction" and faulty["problems"][0]["line"] == 3


def test_schema_is_a_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"]) == 0
    assert "space" in json.loads(capsys.readouterr().out)["properties"]


def test_list_shows_the_sweeps_of_a_database(finished: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    line = capsys.readouterr().out.splitlines()[1].split()
    assert line[0] == finished and "3/6" in line and "stopped" in line and line[-1] == "0.7500"
    assert cli.main(["list", "--json"]) == 0
    (summary,) = json.loads(capsys.readouterr().out)
    assert summary["counts"] == {"COMPLETE": 2, "FAIL": 1} and summary["running"] is False


def test_status_shows_a_stopped_sweep_of_this_machine(finished: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", finished]) == 0
    line = "climbing stopped (3 of 6 trials ended: 2 complete, 1 failed); best score 0.7500 in trial 1\n"
    assert capsys.readouterr().out == line
    assert cli.main(["status", finished, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "name": "climbing",
        "state": "stopped",
        "counts": {"COMPLETE": 2, "FAIL": 1},
        "interrupted": 0,
        "trials": 6,
        "metric": "score",
        "direction": "maximize",
        "best": {"trial": 1, "value": 0.75},
    }


def test_status_tells_running_paused_and_done_apart(make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]) -> None:
    def state() -> str:
        assert cli.main(["status", "climbing"]) == 0
        return capsys.readouterr().out.partition(" (")[0]

    with open_study(make_sweep(budget={"trials": 1, "epochs": 9})) as study:
        assert state() == "climbing running"
        study.commands.send("pause")
        assert state() == "climbing paused"
        _complete(study, 0.5)
    assert state() == "climbing done"


def test_status_of_an_unknown_sweep_names_the_known_ones(finished: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "climbin"]) == 2
    assert f"did you mean {finished!r}?" in capsys.readouterr().err


def test_show_ranks_the_trials_and_explains_the_failed_one(finished: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", finished]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("climbing: 2 complete, 1 failed; stopped after 3 of 6 trials")
    table = lines[[line.startswith("trial ") for line in lines].index(True) :]
    assert table[0].split() == ["trial", "state", "score", "epochs", "time", "height"]
    assert [line.split()[:2] for line in table[1:4]] == [["1", "COMPLETE"], ["0", "COMPLETE"], ["2", "FAIL"]]
    assert table[4] == "failed trial 2: diverged (loss=nan at epoch 2)"


def test_show_as_csv_and_as_json_hold_all_parameters(finished: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", finished, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["cell"] for row in rows] == ["lstm"] * 3
    assert cli.main(["show", finished, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [trial["number"] for trial in document["trials"]] == [1, 0, 2]
    assert document["trials"][0]["params"].keys() == {"cell", "height"}


def test_best_can_be_pasted_into_a_sweep(
    finished: str, make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["best", finished]) == 0
    space = YAML(typ="safe").load(capsys.readouterr().out)["space"]
    assert make_sweep(space=space).space.keys() == {"cell", "height"}
    assert cli.main(["best", finished, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["number"] == 1 and document["params"] == space


def test_best_of_a_sweep_without_a_complete_trial_is_an_error(
    make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_study(make_sweep()):
        pass
    assert cli.main(["best", "climbing"]) == 1
    assert "no trial of sweep 'climbing' has completed yet" in capsys.readouterr().err


def test_best_of_a_sweep_that_is_over_says_so(make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]) -> None:
    with open_study(make_sweep(budget={"trials": 1, "epochs": 9})) as study:
        study.fail(study.ask().number, Failure("error", "ValueError: no"))
    assert cli.main(["best", "climbing"]) == 1
    assert "no trial of sweep 'climbing' has completed, and all its trials have ended" in capsys.readouterr().err


def test_storage_of_a_run_comes_from_the_environment_by_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    assert options.sweep_storage(None) is None
    monkeypatch.setenv("SWEEPER_STORAGE", "postgresql://ada:secret@db/sweeps")
    assert options.sweep_storage(None) == "${env:SWEEPER_STORAGE}"
    assert options.sweep_storage("sqlite:///mine.db") == "sqlite:///mine.db"


def test_references_to_the_environment_are_filled_in(
    make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_study(make_sweep(storage="sqlite:///elsewhere.db")):
        pass
    monkeypatch.setenv("WHERE", "elsewhere")
    assert cli.main(["list", "--storage", "sqlite:///${env:WHERE}.db"]) == 0
    assert "climbing" in capsys.readouterr().out
    assert cli.main(["list", "--storage", "sqlite:///${env:NOWHERE}.db"]) == 2
    assert "NOWHERE is not set" in capsys.readouterr().err


def test_storage_can_come_from_the_environment(
    make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_study(make_sweep(storage="sqlite:///elsewhere.db")):
        pass
    monkeypatch.setenv("SWEEPER_STORAGE", "sqlite:///elsewhere.db")
    assert cli.main(["list"]) == 0
    assert "climbing" in capsys.readouterr().out


def test_closed_pipe_is_no_error(finished: str) -> None:
    command = f"{sys.executable} -m sweeper show {finished} --json | head -c 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stderr == "" and done.stdout == "{"


def test_results_can_be_printed_as_ascii(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep(space={"size": {"type": "categorical", "choices": ["größe", "層"]}})) as study:
        _complete(study, 0.5)
    done = sweeper("show", "climbing", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert r"gr\xf6\xdfe" in done.stdout or r"\u5c64" in done.stdout


def test_run_prints_its_result_on_stdout_and_its_progress_on_stderr(file: Path) -> None:
    done = sweeper("run", file, "--trials", "2", "--name", "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("two: 2 complete; ")
    assert "sweeper show two" in done.stdout
    progress = [line.partition("] ")[2] for line in done.stderr.splitlines()]
    assert progress[0] == "loading Optuna, Ray and MLflow"
    assert any(line.startswith("trial 1 complete at epoch 9/9, score 0.") for line in progress)


@pytest.mark.long
def test_interrupted_run_exits_130_and_the_same_command_resumes_it(file: Path) -> None:
    file.write_text(FILE.replace("climb\n", "slow_count\n").replace("trials: 4", "trials: 2"))
    command = [sys.executable, "-m", "sweeper", "run", str(file)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "trial 0 complete" in line:
            break
    process.send_signal(signal.SIGINT)
    text, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "interrupted" in text
    assert f"Progress is saved. Resume with: sweeper run {file}" in errors.replace("\n", " ")
    done = sweeper("run", file, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["counts"] == {"COMPLETE": 2} and document["stopped"] is None
    assert "trial 0 complete" not in done.stderr and "; 2 of 2 ended; " in done.stderr


@pytest.mark.long
def test_ui_prints_links_to_a_sweep_and_ends_its_server_with_itself(finished: str) -> None:
    synced = sweeper("sync", finished, "--json")
    assert synced.returncode == 0, synced.stderr
    assert json.loads(synced.stdout)["written"] > 0
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeper", "ui", "climbing", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if line == "}\n":
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    document = json.loads(text)
    assert "all trials, best first" in [link["title"] for link in document["links"]]
    with pytest.raises(URLError):
        urlopen(f"{document['url']}/health", timeout=2)


def test_doctor_as_json_is_one_document_and_exits_1_on_a_fault(file: Path) -> None:
    Path("sweeper.db").write_text("not a database, but long enough to have a header" * 10)
    done = sweeper("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 1
    assert checks["studies"]["state"] == "fail" and checks["studies"]["advice"]
    assert {"python", "mnist", "cpus", "gpus", "memory", "mlflow"} <= set(checks)


@pytest.mark.parametrize("target", [["climbing", "2"], ["climbing:2"]])
def test_show_prints_all_about_one_trial(finished: str, target: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("sweeps/climbing/trials/0002")
    folder.mkdir(parents=True)
    (folder / "error.txt").write_text("Traceback")
    assert cli.main(["show", *target]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["climbing, trial 2", "Trial 2 failed after epoch 1: diverged (loss=nan at epoch 2)."]
    facts = {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[-1].strip() for line in lines[2:] if line.strip()}
    assert facts["score"] == "0.1000" and facts["cell"].split() == ["lstm", "lstm", "fixed"]
    assert facts["failure"] == "it diverged" and facts["error"] == "diverged (loss=nan at epoch 2)"
    assert facts["traceback"].endswith("sweeps/climbing/trials/0002/error.txt")
    assert cli.main(["show", *target, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["number"] == 2 and len(document["failed_attempts"]) == len(document["files"]) == 1


def test_newest_sweep_is_taken_and_named_if_none_is_given(
    finished: str, make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_study(make_sweep(name="later")) as study:
        _complete(study, 0.9)
    for verb in ("show", "best", "status"):
        assert cli.main([verb]) == 0
        text, notes = capsys.readouterr()
        assert "0.9000" in text and notes == "note: later is the newest sweep, and no other was named.\n"


def test_trial_of_a_sweep_that_no_process_runs_is_shown_as_interrupted(
    make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_study(make_sweep()) as study:
        study.ask()
        assert cli.main(["show", "climbing"]) == 0
        assert "RUNNING" in capsys.readouterr().out
    assert cli.main(["show", "climbing"]) == 0
    assert "INTERRUPTED" in capsys.readouterr().out
    assert cli.main(["status", "climbing"]) == 0
    assert capsys.readouterr().out == "climbing stopped (0 of 6 trials ended: 1 interrupted)\n"
    for verb in ("show", "list", "status"):
        assert cli.main([verb, *(["climbing"] * (verb != "list")), "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        inner = document["trials"][0] if verb == "show" else document[0] if verb == "list" else document
        assert inner["interrupted"] == 1
        assert "RUNNING" in (inner["state"] if verb == "show" else inner["counts"])


def test_name_in_the_place_of_a_file_is_answered_with_commands(
    finished: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "climbing"]) == 2
    line = "error: climbing  no such file. Did you mean: sweeper run climb.yaml or: sweeper resume climbing\n"
    assert capsys.readouterr().err == line


def test_list_shows_failures_and_the_time_of_the_trials(
    finished: str, make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_study(make_sweep(name="over", budget={"trials": 1, "epochs": 9})) as study:
        _complete(study, 0.5)
    assert cli.main(["list"]) == 0
    head, over, climbing = capsys.readouterr().out.splitlines()
    assert head.split() == ["sweep", "started", "time", "trials", "failed", "metric", "best"]
    assert "done" in over.split() and "1/1" in over
    assert climbing.split()[-5:-1] == ["1", "stopped", "max", "score"]


def test_error_that_ends_a_run_is_followed_by_the_command_that_resumes(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr("sweeper.run.run_sweep", full)
    assert cli.main(["run", "climb.yaml"]) == 74
    assert capsys.readouterr().err.endswith("note: The same command resumes the sweep: sweeper run climb.yaml\n")
