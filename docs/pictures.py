"""Draws the pictures of README.md and docs/ from a sweep that has ended, and the one of docs/search.md from a replay.

Usage, in the folder where the sweep ran: `python DOCS/pictures.py NAME TRIAL`. It needs Chromium, and a sweep with a
trial that was pruned. The pictures in the repository are of search_spaces/cells.yaml on MNIST.
`python DOCS/pictures.py search FILE` draws what `python -m benchmarks.replay` has saved in FILE.
"""

from __future__ import annotations

import io
import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.text import Text

DOCS = Path(__file__).parent
COLUMNS = 110
SWEEPER = [sys.executable, "-m", "sweeper"]


def draw_terminal(arguments: list[str], file: Path) -> None:
    """Write what a command prints on a terminal as SVG."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "LINES": "60", "TERM": "xterm-256color"}
    process = subprocess.Popen([*SWEEPER, *arguments], stdout=theirs, stderr=subprocess.DEVNULL, env=environment)
    os.close(theirs)
    printed = b""
    try:
        while piece := os.read(ours, 1 << 16):
            printed += piece
    except OSError:  # the other end of a terminal is closed
        pass
    if process.wait() != 0:
        raise SystemExit(f"sweeper {' '.join(arguments)} ended with {process.returncode}")
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    text = printed.decode().replace("\r", "").replace(str(Path.cwd()), "/home/ada")
    console.print(Text.from_ansi(text))
    console.save_svg(str(file), title=f"sweeper {' '.join(arguments)}")


def draw_run(name: str, file: Path, share: float = 0.4) -> None:
    """Write the live view of a sweep, after a share of its time, from what its study has recorded."""
    from sweeper import read_study
    from sweeper.analysis.progress import Progress
    from sweeper.cli.live import LiveProgress

    study = read_study(name, "sqlite:///sweeper.db")
    events = sorted(_events(study), key=lambda event: event[0])
    first, last = events[0][0], events[-1][0]
    until, now = first + share * (last - first), first
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    view = LiveProgress(study.sweep, console)
    view.progress = Progress(study.sweep, clock=lambda: now)
    for moment, row, report in events:
        if moment <= until:
            now = moment
            view.on_trial(row, report)
    now = until
    command = f"sweeper run search_spaces/{name}.yaml"
    for shown in (Text(f"$ {command}\n"), Text(f"MLflow: sweeper ui {name}\n", "dim"), view.__rich__()):
        console.print(shown)
    console.save_svg(str(file), title="sweeper")


def _events(study: Any) -> Iterator[tuple[float, Any, Any]]:
    """Yield what the listeners of a sweep got: starts, reports, pauses, returns and ends, each with its moment."""
    for row in study.rows():
        stops = {decision.step for decision in study.decisions().get(row.number, ()) if decision.is_pruned}
        reports, attempt = study.reports(row.number), 1
        begun, metric = row.started.timestamp(), study.sweep.objective.metric
        state = replace(row, state="RUNNING", step=0, value=None, attempt=1, spent=0.0, resumed=None, is_paused=False)
        yield begun, state, None
        for index, report in enumerate(reports):
            state = replace(state, step=report.step, value=report.metrics[metric])
            yield report.time, state, report
            if report.step in stops:
                yield report.time, replace(state, state="PRUNED", is_paused=True), None
                if index + 1 < len(reports):
                    attempt += 1
                    pace = (report.time - begun) / report.step
                    state = replace(state, attempt=attempt)
                    yield max(report.time, reports[index + 1].time - pace), state, None
        if row.state == "COMPLETE":
            yield row.ended.timestamp(), row, None


def draw_page(url: str, file: Path, size: str, wait_ms: int) -> None:
    """Write a picture of a page."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    with tempfile.TemporaryDirectory() as profile:
        where = [f"--user-data-dir={profile}", f"--window-size={size}", f"--virtual-time-budget={wait_ms}"]
        subprocess.run([chromium, *quiet, *where, f"--screenshot={file}", url], check=True, stderr=subprocess.DEVNULL)


def draw_mlflow(name: str, file: Path) -> None:
    """Write a picture of the sweep's charts in the MLflow UI."""
    server = subprocess.Popen([*SWEEPER, "ui", name, "--json"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        text = ""
        while not text.endswith("\n}\n"):
            text += server.stdout.readline()
        charts = next(link["url"] for link in json.loads(text)["links"] if "chart" in link["title"])
        draw_page(charts, file, "2300,1050", 40_000)
        with Image.open(file) as picture:
            picture.crop((0, 0, 1712, 1050)).quantize(128).save(file)  # without MLflow's assistant on the right
    finally:
        server.terminate()
        server.wait()


SEARCHES = {
    "oracle that must look": "#8c8c8c",
    "auto": "#d62728",
    "one epoch, then the best 2 of 20": "#1f77b4",
    "Ray's ASHA": "#9467bd",
    "successive_halving": "#2ca02c",
    "random": "#000000",
}


def draw_search(saved: Path, share: str = "0.02") -> None:
    """Write the share of orders that have found one of the best, by the epochs spent, as docs/search.png."""
    import plotly.graph_objects as go

    results = json.loads(saved.read_text())
    figure = go.Figure()
    for name, color in SEARCHES.items():
        orders = results[name][share]
        epochs = sorted(one[0] for one in orders if one[0] is not None)
        reached = [100 * (place + 1) / len(orders) for place in range(len(epochs))]
        line = {"color": color, "shape": "hv", "width": 3 if name == "auto" else 2}
        figure.add_scatter(x=epochs, y=reached, name=name, mode="lines", line=line)
    figure.update_xaxes(type="log", title="epochs spent in all", dtick="D2")
    title = f"orders that have trained one of the best {100 * float(share):g} % to its end, %"
    figure.update_yaxes(title=title, range=[0, 101])
    figure.update_layout(
        template="plotly_white", width=900, height=480, margin={"t": 20}, legend={"x": 0.02, "y": 0.98}
    )
    with tempfile.TemporaryDirectory() as folder:
        figure.write_html(page := Path(folder) / "search.html", config={"displayModeBar": False})
        draw_page(page.as_uri(), DOCS / "search.png", "916,500", 5_000)


def main(name: str, trial: str) -> None:
    if name == "search":
        return draw_search(Path(trial))
    draw_run(name, DOCS / "run.svg")
    draw_terminal(["show", name, trial], DOCS / "show.svg")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        subprocess.run([*SWEEPER, "report", name, "-o", str(page)], check=True)
        draw_page(page.as_uri(), DOCS / "report.png", "1100,1850", 15_000)
    draw_mlflow(name, DOCS / "mlflow.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
