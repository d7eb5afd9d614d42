"""One trial for people and for machines: why it ended, its curve beside others, its parameters, attempts and files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.text import Text

from sweeper.analysis.details import Details, Parameter, details_of
from sweeper.analysis.trials import cut_reason, goal_cells, unit
from sweeper.analysis.why import FAILURES, why
from sweeper.cli import console, report
from sweeper.cli.look.plots import draw_curves
from sweeper.core.secrets import redact
from sweeper.core.text import clean, duration, scalar

if TYPE_CHECKING:
    from sweeper.analysis.curves import Curve
    from sweeper.core.trials import TrialRecord
    from sweeper.spec import Sweep
    from sweeper.study.view import StudyView

PLOT_WIDTH, PLOT_HEIGHT = 100, 16
"""Most characters and lines of a drawing of curves."""


def print_trial(study: StudyView, row: TrialRecord) -> None:
    """Print all about one trial, why it ended first."""
    details = details_of(study, row)
    console.out.print(Text(clean(f"{study.name}, trial {row.number}"), "bold"))
    for sentence in why(study, row):
        console.out.print(Text(sentence), soft_wrap=True)
    console.out.print()
    if details.curve.values:
        best = [] if details.best is None else [details.best]
        print_curves(study, [details.curve, *details.peers], [row.number, *best])
    _print_parameters(details)
    _print_attempts(study, details)
    console.print_facts([(label, clean(text)) for label, text in _facts(study, details) if text])


def print_curves(study: StudyView, curves: Sequence[Curve], highlight: Collection[int]) -> None:
    """Draw curves of the objective as wide as the terminal allows."""
    sweep, width = study.sweep, min(console.out.width, PLOT_WIDTH)
    drawing = draw_curves(
        curves,
        highlight=highlight,
        width=width,
        height=PLOT_HEIGHT,
        title=f"{sweep.objective.metric} ({sweep.objective.direction})",
        unit=unit(sweep.budget),
    )
    console.out.print(Text.from_ansi(drawing), soft_wrap=True)
    console.out.print()


def _print_parameters(details: Details) -> None:
    """Print the parameters beside those of the best trial, and what is remarkable about them."""
    if not details.parameters:
        return
    has_best = details.best is not None and details.best != details.row.number
    columns = ["parameter", f"trial {details.row.number}", *([f"trial {details.best} (best)"] * has_best), ""]
    table = console.table(columns)
    for parameter in (one for one in details.parameters if one.source != "default"):
        value = scalar(parameter.value) if parameter.is_used else "-"
        best = [scalar(parameter.best) if parameter.is_in_best else "-"] * has_best
        remark = "differs most" if parameter.is_marked else "fixed" if parameter.source == "fixed" else ""
        cells = [parameter.name, value, *best, remark]
        table.add_row(*(Text(clean(cell), "bold" if parameter.is_marked else "") for cell in cells))
    console.print_table(table)
    console.out.print()


def _print_attempts(study: StudyView, details: Details) -> None:
    """Print every attempt with its node and time."""
    if not details.attempts:
        return
    table = console.table(["attempt", "state", unit(study.sweep.budget), "time", "node"])
    for attempt in details.attempts:
        cells = (attempt.attempt, attempt.state, f"{attempt.epoch:g}", duration(attempt.seconds), attempt.node or "")
        style = console.STATE_STYLES.get(attempt.state, "")
        table.add_row(*(Text(clean(cell), style if index == 1 else "") for index, cell in enumerate(cells)))
    console.print_table(table)
    console.out.print()


def _facts(study: StudyView, details: Details) -> list[tuple[str, str]]:
    row, facts = details.row, [("defaults", _defaults_line(details.parameters))]
    goals = zip(study.sweep.goals, goal_cells(row, study.sweep), strict=True)
    facts += [(goal.metric, cell) for goal, cell in goals if cell]
    if row.started is not None:
        facts.append(("started", row.started.astimezone().strftime("%Y-%m-%d %H:%M:%S")))
    facts.append(("time", duration(row.seconds)))
    facts += [("cpus", _cpus_line(row, study.sweep))] if row.cpus else []
    failed = [attempt for attempt in details.attempts if attempt.reason]
    if len(failed) > 1 or (failed and row.state != "FAIL"):
        reasons = [f"attempt {attempt.attempt}: {cut_reason(attempt.reason or '', 1000)}" for attempt in failed]
        facts += [("" if index else "failed", reason) for index, reason in enumerate(reasons)]
    if (failure := details.failure) is not None:
        error = f"{failure.error}: {failure.message}" if failure.error else failure.message
        facts += [("failure", FAILURES.get(failure.kind or "", "")), ("error", error)]
        facts += [("place", failure.place or ""), ("traceback", str(failure.traceback or ""))]
    for index, checkpoint in enumerate(details.checkpoints):
        place = f"{unit(study.sweep.budget).removesuffix('s')} {checkpoint.epoch:g}, {checkpoint.bytes / 1e6:.1f} MB"
        facts.append(("" if index else "checkpoint", f"{checkpoint.path} ({place})"))
    outputs = [str(attempt.output) for attempt in details.attempts if attempt.output]
    facts += [("" if index else "output", output) for index, output in enumerate(outputs)]
    shown = {attempt.output for attempt in details.attempts} | {failure.traceback if failure else None}
    others = [file for file in details.files if file not in shown]
    facts += [("" if index else "files", str(file)) for index, file in enumerate(others)]
    facts.append(("MLflow", _tracking_line(study)))
    return facts + [("note", sentence) for sentence in details.missing]


def _cpus_line(row: TrialRecord, sweep: Sweep) -> str:
    """Say how many CPUs computed a trial, and after which epoch: 1, 2 after epoch 4.5."""
    (_, at_first), *changes = row.cpus if row.cpus[0][0] == 1 else ((1, 1), *row.cpus)
    budget, word = sweep.budget, unit(sweep.budget).removesuffix("s")
    return ", ".join([f"{at_first}"] + [f"{cpus} after {word} {budget.epoch_of(one - 1):g}" for one, cpus in changes])


def _defaults_line(parameters: Sequence[Parameter]) -> str:
    """List the hyperparameters that stayed at the default of the trainable."""
    return ", ".join(f"{one.name}: {scalar(one.value)}" for one in parameters if one.source == "default")


def _tracking_line(study: StudyView) -> str:
    """Say where MLflow has the sweep, as far as that is known without asking it."""
    uri = study.facts.get("tracking_uri") or study.sweep.tracking.uri
    where = f" at {redact(str(uri))}" if uri else ""
    command = f"sweeper ui {study.name}{console.storage_option(study.sweep)}"
    return f"experiment {study.sweep.tracking.experiment}{where}; to open it: {command}"


def trial_document(study: StudyView, row: TrialRecord) -> dict[str, Any]:
    """Build the document of `show NAME TRIAL --json`."""
    details, failed = details_of(study, row), study.attempts().get(row.number, ())
    facts = {name: value for name, value in asdict(details).items() if name != "row"}
    uri = study.facts.get("tracking_uri") or study.sweep.tracking.uri
    return report.attempts_document(study.sweep, details.row, failed) | {
        **facts,
        "why": list(why(study, row)),
        "decisions": [asdict(decision) for decision in study.decisions().get(row.number, ())],
        "mlflow": {"experiment": study.sweep.tracking.experiment, "uri": redact(str(uri)) if uri else None},
    }
