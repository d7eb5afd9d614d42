"""The report in a real browser: every figure is drawn, nothing is requested, and no error is logged."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sweeper.analysis.report.material import Evaluated
from sweeper.analysis.report.page import make_page
from sweeper.spec import Sweep
from tests.analysis.report.studies import DECLARED, PREDICTIONS, make_study

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="NO CHROMIUM HERE: the report was not opened in a browser")

LIGHT, DARK = "--blink-settings=preferredColorScheme=1", "--blink-settings=preferredColorScheme=0"
ALL = "--window-size=1200,12000"
"""A window in which all of a page is seen; a figure is drawn when it is nearly seen."""

FIGURES = 15
MAX_BYTES = 10e6


def opened(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Open a page in a browser of its own, without a network, until all is drawn."""
    fixed = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
    fixed += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    fixed += ["--enable-logging=stderr", "--virtual-time-budget=60000", f"--user-data-dir={page.parent / 'profile'}"]
    command = [str(CHROMIUM), *fixed, f"--log-net-log={page.parent / 'net.json'}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def requests(page: Path) -> list[str]:
    """Return the addresses that a page has asked for when it was opened; the browser asks for others by itself."""
    text = (page.parent / "net.json").read_text()
    try:
        events = json.loads(text)["events"]
    except ValueError:  # the browser ended before it closed the list
        events = json.loads(text.rstrip().rstrip(",") + "]}")["events"]
    asked = [event["params"] for event in events if "initiator" in event.get("params", {})]
    urls = [str(params["url"]) for params in asked if params["initiator"] != "not an origin"]
    return [url for url in urls if not url.startswith(("file:", "data:", "blob:"))]


def console(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    page = folder / "report.html"
    page.write_text(
        make_page(make_study(sweep_in(folder)), Evaluated({"test_accuracy": 0.99}, PREDICTIONS, None, True))
    )
    return page


def sweep_in(folder: Path, **changes: Any) -> Sweep:
    where = {"storage": f"sqlite:///{folder}/sweeper.db", "trainable": "tests.samples:climb"}
    return Sweep.from_mapping(DECLARED | where | changes)


def test_every_figure_is_drawn_without_an_error_or_a_request(written: Path) -> None:
    done = opened(written, "--dump-dom", ALL)
    assert console(done) == [] and requests(written) == []
    assert f'data-drawn="{FIGURES}"' in done.stdout
    parts = re.split(r'(?=<div class="figure )', done.stdout)[1:]
    assert len(parts) == FIGURES and all('class="main-svg"' in part for part in parts)
    marks = r'class="point"|class="js-line"|class="hm"|class="contourlayer"'
    assert [part[:60] for part in parts if not re.search(marks, part)] == []


def test_a_request_and_an_error_would_have_been_seen(tmp_path: Path) -> None:
    (page := tmp_path / "page.html").write_text('<img src="http://127.0.0.1:9/x.png"><script>nothing()</script>')
    done = opened(page, "--dump-dom")
    assert requests(page) == ["http://127.0.0.1:9/x.png"] and "nothing is not defined" in console(done)[0]


def test_figures_take_the_colours_of_the_theme(written: Path) -> None:
    def colours(theme: str) -> set[str]:
        return set(
            re.findall(r"fill: (rgb\([\d, ]+\)); fill-opacity: 1", opened(written, "--dump-dom", theme, ALL).stdout)
        )

    light, dark = colours(LIGHT), colours(DARK)
    assert "rgb(28, 39, 51)" in light - dark and "rgb(227, 233, 239)" in dark - light


def test_page_is_printed_and_fits_a_phone(written: Path) -> None:
    pdf, picture = written.parent / "print.pdf", written.parent / "phone.png"
    opened(written, f"--print-to-pdf={pdf}")
    opened(written, "--window-size=390,8000", f"--screenshot={picture}")
    assert pdf.stat().st_size > 50_000 and picture.stat().st_size > 50_000


def test_figures_below_the_window_are_drawn_when_they_are_printed(written: Path) -> None:
    def drawn(*options: str) -> int:
        return int((re.findall(r'data-drawn="(\d+)"', opened(written, "--dump-dom", *options).stdout) or ["0"])[0])

    assert 0 < drawn("--window-size=800,800") < FIGURES == drawn(ALL)
    page = written.parent / "printing.html"
    page.write_text(written.read_text() + '<script>dispatchEvent(new Event("beforeprint"))</script>')
    assert f'data-drawn="{FIGURES}"' in opened(page, "--dump-dom", "--window-size=800,800").stdout


@pytest.mark.long
@pytest.mark.timeout(900)  # most of it to make the study
def test_two_thousand_trials_make_a_page_of_which_only_what_is_seen_is_drawn_at_once(tmp_path: Path) -> None:
    study = make_study(sweep_in(tmp_path, budget={**DECLARED["budget"], "trials": 2000}))
    text = make_page(study, Evaluated({"test_accuracy": 0.99}, PREDICTIONS, None, True))
    assert len(text.encode()) < MAX_BYTES
    (page := tmp_path / "report.html").write_text(text)
    drawn = re.search(r'data-drawn="(\d+)"', opened(page, "--dump-dom", "--window-size=1280,900").stdout)
    assert drawn is not None and int(drawn[1]) < FIGURES / 2
    done = opened(page, "--dump-dom", ALL)
    assert f'data-drawn="{FIGURES}"' in done.stdout and console(done) == []
