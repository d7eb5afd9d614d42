"""The report as a page, read without a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sweeper.analysis.report.material import Evaluated
from sweeper.analysis.report.page import make_page
from sweeper.core.secrets import register_secret
from sweeper.core.trials import Champion, Report
from sweeper.spec import Sweep
from sweeper.study.open import open_study, read_study
from tests.analysis.report.studies import DECLARED, PREDICTIONS, SECRET, make_study

MakeSweep = Callable[..., Sweep]

ORDER = [
    "answer",
    "confirmation",
    "history",
    "curves",
    "parallel",
    "importance",
    "slices",
    "contour",
    "survival",
    "timeline",
    "failures",
    "confusion",
    "yaml",
    "versions",
    "reproduce",
]
FIGURES = {"history", "curves", "parallel", "importance", "contour", "survival", "timeline", "failures", "confusion"}
SLICES = {f"slice-{place}" for place in range(6)}


class Page(HTMLParser):
    """The sections of a page with their texts, its figures, its pictures, and every address that it mentions."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: dict[str, str] = {}
        self.figures: dict[str, Any] = {}
        self.labels: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self._inside, self._section, self._data = "", "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self._inside = tag
        self.tags.append(tag)
        self.addresses += [found[name] or "" for name in ("src", "href", "action", "data", "srcset") if name in found]
        if tag == "section":
            self._section = found["id"] or ""
            self.sections[self._section] = ""
        if tag == "script":
            self._data = (found.get("data-for") or "").removeprefix("figure-")
        if found.get("class") == "figure":
            self.labels.append(found.get("aria-label") or "")
        if tag == "img":
            self.pictures.append(found)
        assert not [name for name in found if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""
        if tag == "main":
            self._section = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            if self._data:
                self.figures[self._data] = json.loads(data)
        elif self._section:
            self.sections[self._section] += data


@pytest.fixture(scope="module")
def page_of_many(tmp_path_factory: pytest.TempPathFactory) -> str:
    register_secret(SECRET)
    folder = tmp_path_factory.mktemp("many")
    sweep = Sweep.from_mapping(
        DECLARED | {"storage": f"sqlite:///{folder}/sweeper.db", "trainable": "tests.samples:climb"}
    )
    champion = Champion("mnist-rnn", 3, True, 2, "beat version 2", "models:/mnist-rnn@champion", "r", "m")
    tested = Evaluated({"test_accuracy": 0.9919}, PREDICTIONS, champion, has_folder=True)
    return make_page(make_study(sweep), tested)


def test_origin_of_parameters_is_in_tables_and_curves(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(budget={"trials": 3, "epochs": 1}, sampler={"type": "random"}, enqueue=[{"height": 0.5}])
    with open_study(sweep) as study:
        for number in range(3):
            study.report(study.ask().number, Report(1, 1.0 + number, {"score": 0.1 * number}))
    page = Page(make_page(read_study(sweep.name, sweep.storage_url()), Evaluated()))
    for section in ("curves", "parallel"):
        assert "proposed by" in page.sections[section] and "start point" in page.sections[section]
    assert any("0 (start point)" in trace["customdata"] for trace in page.figures["curves"]["data"])


def test_axes_of_results_leave_out_what_squeezes_the_good_ones(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(budget={"trials": 12, "epochs": 1})
    with open_study(sweep) as study:
        for number in range(12):
            score = 0.1 * number if number < 2 else 0.95 + 0.004 * number
            study.report(study.ask().number, Report(1, 1.0 + number, {"score": score}))
    page = Page(make_page(read_study(sweep.name, sweep.storage_url()), Evaluated()))
    for name in ("history", "curves", "slice-0"):
        low, high = page.figures[name]["layout"]["yaxis"]["range"]
        assert 0.9 < low < high < 1.05
    for section in ("history", "curves", "slices"):
        assert "The axis leaves out 3 worse values; a double click on" in page.sections[section]


def test_front_of_several_goals_is_drawn_and_listed(make_sweep: MakeSweep) -> None:
    points = [(0.5, 40.0), (0.9, 900.0), (0.8, 20.0), (0.85, 5000.0)]
    goals = [{"metric": "score"}, {"metric": "size", "direction": "minimize"}, {"metric": "speed"}]
    for count in (2, 3):
        sweep = make_sweep(objective=goals[:count], budget={"trials": 4, "epochs": 1}, name=f"goals-{count}")
        with open_study(sweep) as study:
            for score, size in points:
                study.report(study.ask().number, Report(1, 1.0, {"score": score, "size": size, "speed": 1.0}))
        page = Page(make_page(read_study(sweep.name, sweep.storage_url()), Evaluated()))
        assert list(page.sections) == [ORDER[0], "front", *ORDER[1:]]
        assert "2 of 4 COMPLETE trials are on the front" in " ".join(page.sections["front"].split())
        figures = [figure for name, figure in page.figures.items() if name.startswith("front-")]
        assert len(figures) == count - 1
        *_, front = figures[0]["data"]
        assert (front["name"], front["customdata"], front["x"]) == ("on the front", [2, 1], [20.0, 900.0])
        assert front["mode"] == ("lines+markers" if count == 2 else "markers")
        layout = figures[0]["layout"]
        assert layout["xaxis"]["type"] == "log" and "type" not in layout["yaxis"]
        assert layout["xaxis"]["title"]["text"] == "size (less is better)"
        assert layout["yaxis"]["title"]["text"] == "score (more is better)"


def test_sections_and_figures_are_all_there_in_their_order(page_of_many: str) -> None:
    page = Page(page_of_many)
    assert list(page.sections) == ORDER
    assert page.figures.keys() == FIGURES | SLICES
    assert all(figure["data"] for figure in page.figures.values())
    assert len(page.labels) == len(page.figures) and all(page.labels)
    assert page.tags.count("table") == 12  # all sections but the confirmation, the sweep file and how to reproduce
    assert "could not be made" not in page_of_many


def test_answer_has_champion_test_and_cost(page_of_many: str) -> None:
    answer = Page(page_of_many).sections["answer"]
    assert re.search(r"trial \d+: val_accuracy 0\.\d{4} with cell ", answer)
    assert "test_accuracy 0.9919" in answer and "mnist-rnn version 3 is the champion (beat version 2)" in answer
    assert re.search(r"Saved by pruning\s*\d+%: [\d.]+ of [\d.]+ epochs were run", answer)


def test_page_loads_nothing_and_is_small(page_of_many: str) -> None:
    page = Page(page_of_many)
    assert not [address for address in page.addresses if not address.startswith(("#", "data:image/png;base64,"))]
    assert not {"link", "iframe", "object", "base", "form"} & set(page.tags)
    style = page_of_many[page_of_many.index("<style>") : page_of_many.index("</style>")]
    assert "@import" not in style and "url(" not in style
    assert "default-src 'none'" in page_of_many and page_of_many.count("<script>") == 2
    assert len(page_of_many.encode()) < 10e6


def test_texts_of_the_user_are_shown_and_run_nothing(page_of_many: str) -> None:
    page = Page(page_of_many)
    assert "img" not in {tag for tag in page.tags if tag == "img"} or len(page.pictures) == 12
    assert page_of_many.count("alert(2)") == page_of_many.count("alert(2)&lt;/script&gt;")
    assert "alert(1)" in page.sections["failures"] and SECRET not in page_of_many
    labels = json.dumps(page.figures["parallel"]) + json.dumps(page.figures["slice-0"])
    assert "<b>" not in labels


def test_confusion_matrix_has_counts_and_pictures(page_of_many: str) -> None:
    page = Page(page_of_many)
    assert len(page.pictures) == 12
    assert page.pictures[0]["alt"] == "A sample of class 4 that was predicted as 9"
    assert str(page.pictures[0]["src"] or "")[:32] == "data:image/png;base64,iVBORw0KGg"
    assert page.figures["confusion"]["data"][0]["text"][0][0] == 980


def test_objective_is_the_last_axis_of_the_parallel_coordinates(page_of_many: str) -> None:
    layout = Page(page_of_many).figures["parallel"]["layout"]
    assert layout["xaxis"]["ticktext"][-1] == "val_accuracy" and len(layout["xaxis"]["ticktext"]) == 7
    data = Page(page_of_many).figures["parallel"]["data"]
    lines = [trace for trace in data if len(trace["x"]) == 7]
    assert max(line["y"][-1] for line in lines) == lines[-1]["y"][-1] == 1.0
    assert lines[-1]["customdata"][-1][0] == "val_accuracy"


@pytest.mark.parametrize("name", ["none", "one", "failed", "pruned"])
def test_sweep_without_results_says_what_cannot_be_drawn(name: str, make_sweep: MakeSweep) -> None:
    sweep = make_sweep(**{key: value for key, value in DECLARED.items() if key != "pruner"})
    if name == "failed":
        study = make_study(sweep, 3, only_failures=True)
    elif name == "one":
        study = make_study(sweep, 1)
    else:
        with open_study(sweep) as owned:
            if name == "pruned":
                owned.report(owned.ask().number, Report(1, 1.0, {"val_accuracy": 0.5}))
                owned.finish(0, is_pruned=True)
        study = read_study(sweep.name, sweep.storage_url())
    text = make_page(study, Evaluated())
    page = Page(text)
    assert list(page.sections) == ORDER and "could not be made" not in text
    reasons = {
        "none": "No trial has started yet.",
        "one": "This needs 2 COMPLETE trials, and there is 1.",
        "failed": "No trial has completed, and all of them failed.",
        "pruned": "No trial has completed yet.",
    }
    assert all(reasons[name] in page.sections[section] for section in ("parallel", "importance", "slices"))
    shown = {
        "none": set(),
        "one": {"history", "curves", "survival", "timeline"},
        "failed": {"timeline", "failures"},
        "pruned": {"curves", "survival", "timeline"},
    }
    assert page.figures.keys() == shown[name]
    assert "the folder of the sweep" in page.sections["answer"].lower()


def test_running_sweep_and_one_of_another_machine_say_so(make_sweep: MakeSweep, tmp_path: Path) -> None:
    study = make_study(make_sweep(**DECLARED), 6)
    running = make_page(study, Evaluated(has_folder=True), is_running=True)
    assert '<span class="badge">running</span>' in running and "The sweep is running" in running
    assert "not yet: the best trial is tested when the sweep ends" in running
    assert "not known here: the folder of the sweep is not at hand" in make_page(study, Evaluated())


def test_outcome_on_record_in_the_study_is_shown_without_the_folder(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(**DECLARED)
    best = make_study(sweep, 12).best()
    assert best is not None
    champion = Champion("mnist-rnn", 3, True, 2, "beat version 2", "models:/mnist-rnn@champion", "r", "m")
    with open_study(sweep) as study:
        study.record_facts(
            {"outcome": {"trial": best.number, "test": {"test_accuracy": 0.97}, "model": asdict(champion)}}
        )
    answer = Page(make_page(read_study(sweep.name, sweep.storage_url()), Evaluated())).sections["answer"]
    assert "test_accuracy 0.97" in answer and "mnist-rnn version 3 is the champion" in answer
