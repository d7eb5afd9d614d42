"""What the commands say of a sweep with several goals."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from sweeper.cli import console
from sweeper.cli.main import main
from sweeper.core.trials import Report
from sweeper.spec import Sweep
from sweeper.spec.yaml_file import parse_value
from sweeper.study.open import open_study

MakeSweep = Callable[..., Sweep]

POINTS = [(0.5, 64), (0.9, 32), (0.8, 2), (0.7, 16)]
"""Height and width of the trials; the height is the score, the width the number of parameters."""


@pytest.fixture(autouse=True)
def finished(make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Record a sweep of two goals, of whose four trials two are on the front, and the last is pruned."""
    monkeypatch.setattr(console.out, "width", 250)
    sweep = make_sweep(
        objective=[{"metric": "score"}, {"metric": "parameters", "direction": "minimize"}],
        prune_on="score",
        space={
            "height": {"type": "float", "low": 0.0, "high": 1.0},
            "width": {"type": "int", "low": 1, "high": 64},
            "cell": "lstm",
        },
        enqueue=[{"height": height, "width": width} for height, width in POINTS],
        budget={"trials": 4, "epochs": 2},
        pruner={"type": "threshold", "lower": 0.5, "min_reports": 1},
    )
    with open_study(sweep) as study:
        for height, width in POINTS:
            number, first = study.ask().number, 0.1 if width == 16 else height
            study.report(number, Report(1, 1e9, {"score": first, "parameters": 1000.0 * width}))
            study.report(number, Report(2, 1e9 + 1, {"score": height}))
    return sweep


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    text, errors = capsys.readouterr()
    assert errors == ""
    return text


def test_show_has_a_column_for_each_goal_and_names_the_front(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [" ".join(line.split()) for line in shown(capsys, "show", "climbing").splitlines()]
    assert "best trial 1, score 0.9000, parameters 32000" in lines
    assert "front trials 1, 2" in lines
    head = next(place for place, line in enumerate(lines) if line.startswith("trial state"))
    assert lines[head].split()[:5] == ["trial", "state", "score", "parameters", "epochs"]
    assert [line.split()[:4] for line in lines[head + 1 : head + 5]] == [
        ["1", "COMPLETE", "0.9000", "32000"],
        ["2", "COMPLETE", "0.8000", "2000"],
        ["0", "COMPLETE", "0.5000", "64000"],
        ["3", "PRUNED", "0.1000", "16000"],
    ]


def test_trial_shows_all_its_goals(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(shown(capsys, "show", "climbing", "2").split())
    assert "with score 0.8000, parameters 2000, ranked 2 of 3 complete trials" in text
    assert " parameters 2000 " in text


def test_documents_have_the_goals_and_the_front(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(shown(capsys, "show", "climbing", "--json"))
    assert document["goals"] == [
        {"metric": "score", "direction": "maximize"},
        {"metric": "parameters", "direction": "minimize"},
    ]
    assert (document["metric"], document["prune_on"], document["front"]) == ("score", "score", [1, 2])
    assert document["trials"][3]["goals"] == {"score": 0.1, "parameters": 16000.0}
    assert "others" not in document["trials"][0]
    status = json.loads(shown(capsys, "status", "climbing", "--json"))
    assert (status["front"], status["best"]) == ([1, 2], {"trial": 1, "value": 0.9})
    watched = json.loads(shown(capsys, "watch", "climbing", "--json"))
    assert watched["front"] == [1, 2] and watched["best"]["goals"]["parameters"] == 32000.0


def test_csv_has_a_column_for_each_goal(capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(shown(capsys, "show", "climbing", "--csv"))))
    assert [(row["number"], row["value"], row["goals.parameters"]) for row in rows][:2] == [
        ("1", "0.9", "32000.0"),
        ("2", "0.8", "2000.0"),
    ]


def test_trials_are_filtered_and_sorted_by_any_goal(capsys: pytest.CaptureFixture[str]) -> None:
    def numbers(*arguments: str) -> list[int]:
        document = json.loads(shown(capsys, "show", "climbing", "--json", *arguments))
        return [trial["number"] for trial in document["trials"]]

    assert numbers("--sort", "parameters") == [2, 3, 1, 0] and numbers("--sort", "-parameters") == [0, 1, 3, 2]
    assert numbers("--sort", "score") == [1, 2, 0, 3]
    assert numbers("--where", "parameters < 20000", "--where", "score > 0.5") == [2]


def test_front_is_printed_as_start_points_of_a_sweep(finished: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "best", "climbing", "--front")
    assert text.startswith("# climbing: maximize score, minimize parameters\nenqueue:\n# trial 1: score 0.9000, par")
    points = parse_value(text)["enqueue"]
    assert points == [{"height": 0.9, "width": 32, "cell": "lstm"}, {"height": 0.8, "width": 2, "cell": "lstm"}]
    again = finished.changed({"name": "again", "enqueue": points})
    assert len(again.enqueue) == 2
    documents = json.loads(shown(capsys, "best", "climbing", "--front", "--json"))
    assert [(one["number"], one["goals"]) for one in documents] == [
        (1, {"score": 0.9, "parameters": 32000.0}),
        (2, {"score": 0.8, "parameters": 2000.0}),
    ]
    assert shown(capsys, "best", "climbing").startswith("# climbing, trial 1: score 0.9000, parameters 32000\nspace:")


def test_sweeps_with_other_goals_do_not_compare(make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]) -> None:
    with open_study(make_sweep(name="other")) as study:
        study.report(study.ask().number, Report(1, 1e9, {"score": 0.5}))
    assert main(["compare", "climbing", "other"]) == 2
    message = "climbing has to maximize score, minimize parameters, and other has to maximize score: their values do"
    assert message in " ".join(capsys.readouterr().err.split())


def test_validate_names_all_goals(capsys: pytest.CaptureFixture[str], finished: Sweep, tmp_path: Any) -> None:
    (tmp_path / "sweep.yaml").write_text(json.dumps(finished.model_dump(mode="json")))
    assert "random + threshold, maximize score, minimize parameters" in shown(capsys, "validate", "sweep.yaml")
