"""The verb `compare`: trials, or whole sweeps, beside each other."""

from __future__ import annotations

import csv as csv_format
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from sweeper.cli import options, report
from sweeper.core.text import clean, duration, metric, scalar

if TYPE_CHECKING:
    from sweeper.analysis.compare import Comparison, Reached, Side
    from sweeper.study.view import StudyView

PLOT_LINES = 18


def compare(
    targets: options.Targets,
    reach: options.Reach = None,
    csv: options.Csv = False,
    storage: options.Storage = options.DEFAULT_STORAGE,
    tracking_uri: options.TrackingUri = None,
    json: options.Json = False,
) -> None:
    """Compare trials (lstm:3 lstm:7) or whole sweeps (lstm gru): what differs, how good, how soon, at what cost."""
    from sweeper.analysis.compare import compare as compare_sides
    from sweeper.cli.console import print_note

    found, studies = compare_sides(targets, storage, reach or ())
    if csv:
        report.emit(_csv(found))
        return
    if json:
        document = asdict(found) | {"mlflow": _link(found, studies, tracking_uri)[0]}
        report.emit(report.to_json(document))
        return
    _print_comparison(found)
    link, note = _link(found, studies, tracking_uri)
    if link is not None:
        report.emit(f"in MLflow: {link}")
    if note is not None:
        print_note(note)


def _print_comparison(found: Comparison) -> None:
    from rich.text import Text

    from sweeper.cli.console import columns_that_fit, out, print_table, table
    from sweeper.cli.look.plots import draw_curves
    from sweeper.core.text import shorten

    rows = list(_rows(found))
    labels = ["", *(clean(side.label) for side in found.sides)]
    fitting = max(2, columns_that_fit(labels, rows, out.width))
    rendered = table(labels[:fitting])
    for cells in rows:
        rendered.add_row(Text(shorten(cells[0], 40), "dim"), *(Text(shorten(cell)) for cell in cells[1:fitting]))
    print_table(rendered)
    kind = "parameters" if found.sides[0].trial is not None else "keys"
    remarks = [f"{found.equal} other {kind} are the same"] if found.equal else []
    remarks += [f"too narrow for {', '.join(labels[fitting:])}: --csv or --json"] * (fitting < len(labels))
    for remark in (*remarks, *found.remarks):
        out.print(Text(clean(remark), "dim"), soft_wrap=True)
    numbered = [replace(side.curve, number=number) for number, side in enumerate(found.sides)]
    if any(curve.values for curve in numbered):
        whole = found.sides[0].trial is None
        title = f"best {found.metric} so far" if whole else found.metric
        size: dict[str, Any] = {"width": min(out.width, 120), "height": PLOT_LINES, "title": title}
        unit = f"{found.unit} of all trials" if whole else found.unit
        names = {number: side.label for number, side in enumerate(found.sides)}
        report.emit("")
        out.print(
            Text.from_ansi(draw_curves(numbered, highlight=names.keys(), unit=unit, names=names, **size)),
            soft_wrap=True,
        )
    report.emit("")


def _rows(found: Comparison) -> Iterator[list[str]]:
    """Yield the rows of the table: a label, and a cell for each side."""
    sides, whole, name = found.sides, found.sides[0].trial is None, clean(found.metric)
    yield ["state", *(side.state for side in sides)]
    if whole:
        yield ["trials", *(str(side.trials) for side in sides)]
    yield [f"best {name}", *(_best(found, side) for side in sides)]
    if not whole and any(side.last != side.best for side in sides):
        yield [f"last {name}", *(metric(side.last) for side in sides)]
    for index, reached in enumerate(sides[0].reached):
        yield [f"until {metric(reached.value)}", *(_until(found, side.reached[index]) for side in sides)]
    yield [found.unit, *(f"{side.epochs:g}" for side in sides)]
    yield ["time", *(duration(side.seconds) for side in sides)]
    if whole:
        yield ["time of trials", *(duration(side.cost) for side in sides)]
    for key in found.names:
        yield [clean(key), *(scalar(side.differing[key]) if key in side.differing else "-" for side in sides)]


def _best(found: Comparison, side: Side) -> str:
    if side.best is None or side.best_at is None:
        return "-"
    place = f"trial {side.best_at:g}" if side.trial is None else f"{found.unit.removesuffix('s')} {side.best_at:g}"
    return f"{metric(side.best)} ({place})"


def _until(found: Comparison, reached: Reached) -> str:
    if reached.seconds is None or reached.epochs is None:
        return "not reached"
    return f"{duration(reached.seconds)}, {reached.epochs:g} {found.unit}"


def _csv(found: Comparison) -> str:
    """Write one row for each side."""
    facts = ("label", "state", "trials", "best", "best_at", "last", found.unit, "seconds", "cost")
    reached = [name for known in found.sides[0].reached for name in _columns_of(found, known)]
    buffer = io.StringIO()
    writer = csv_format.writer(buffer, lineterminator="\n")
    writer.writerow([report._csv_cell(name) for name in (*facts, *reached, *found.names)])
    for side in found.sides:
        cells: list[Any] = [getattr(side, "epochs" if fact == found.unit else fact) for fact in facts]
        cells += [value for known in side.reached for value in (known.seconds, known.epochs)]
        cells += [side.differing.get(name, "") for name in found.names]
        writer.writerow([report._csv_cell(cell) for cell in cells])
    return buffer.getvalue()


def _columns_of(found: Comparison, reached: Reached) -> tuple[str, str]:
    return f"seconds until {reached.value!r}", f"{found.unit} until {reached.value!r}"


def _link(found: Comparison, studies: Sequence[StudyView], tracking_uri: str | None) -> tuple[str | None, str | None]:
    """Return the address of the same comparison in MLflow, and what to do so that it can be opened; or why not."""
    from sweeper import tracking
    from sweeper.cli.cluster import reach
    from sweeper.cli.look.ui import LOCAL_PORT, store_of
    from sweeper.core.errors import SweeperError
    from sweeper.core.secrets import redact
    from sweeper.core.urls import is_http

    stores = {store_of(study, tracking_uri) for study in studies}
    if len(stores) > 1:
        places = ", ".join(sorted(map(redact, stores)))
        return None, f"MLflow has no page for this: the sweeps are in different stores ({places})"
    (uri,) = stores
    is_lasting = is_http(uri) and not reach.is_forwarded(uri)
    base = uri if is_lasting else f"http://127.0.0.1:{LOCAL_PORT}"
    try:
        if reason := tracking.check_store(uri, must_exist=True):
            return None, f"MLflow at {redact(uri)} does not answer: {reason}"
        runs = [(study, side.trial) for study, side in zip(studies, found.sides, strict=True)]
        link = tracking.comparison_link(runs, uri, base)
    except SweeperError as error:
        return None, str(error)
    command = f"sweeper ui {studies[0].name} --port {LOCAL_PORT}{reach.storage_option() or ''}"
    return link, None if is_lasting else f"The link works while the UI runs: {command}"
