"""Results as text on stdout: a study in cells, CSV, JSON and YAML. Imports no rich."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.analysis.trials import INTERRUPTED, describe_goals, describe_objective, goal_cells, unit, varying
from sweeper.cli.goals import goal_values, goals_document
from sweeper.core.files import open_regular
from sweeper.core.secrets import redact
from sweeper.core.text import clean, duration, scalar, to_yaml

if TYPE_CHECKING:
    from sweeper.analysis.result import SweepResult
    from sweeper.core.confirmation import Confirmation
    from sweeper.core.trials import Attempt, Report, TrialRecord
    from sweeper.spec import Sweep
    from sweeper.study.view import StudyView, SweepSummary

_FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")


def emit(text: str) -> None:
    """Print a result for machines: as it is, never wrapped."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def emit_text(text: str) -> None:
    """Print a piece of another process's output with its control characters escaped."""
    for line in text.splitlines(keepends=True):
        sys.stdout.write(clean(line.rstrip("\n")) + ("\n" if line.endswith("\n") else ""))
    sys.stdout.flush()


def emit_file(file: Path, start: int = 0, *, last_lines: int | None = None) -> int:
    """Print a file of output, with secrets masked; of a line that was overwritten, as by a progress bar, the end.

    Args:
        start: the byte to begin at; a file that has become shorter is printed from its beginning.

    Returns:
        The byte where the next call is to begin.
    """
    try:
        with open_regular(file) as opened:
            content = opened.read()
    except OSError:  # it was moved aside now, or is a link
        return start
    shown = re.sub(rb"[^\n]*\r(?=[^\r\n])", b"", content[start if start <= len(content) else 0 :])
    lines = redact(shown.replace(b"\r", b"").decode(errors="backslashreplace")).splitlines(keepends=True)
    for line in lines if last_lines is None else lines[-last_lines:]:
        emit_text(line if line.endswith("\n") else f"{line}\n")
    return len(content)


@dataclass(frozen=True)
class Board:
    """Cells of a leaderboard: `fixed` columns that are always shown, then one per parameter that varies."""

    fixed: tuple[str, ...]
    params: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def board(sweep: Sweep, rows: Sequence[TrialRecord]) -> Board:
    """Build the cells of a leaderboard in the order of `rows`."""
    params = varying(sweep)
    fixed = ("trial", "state", *(goal.metric for goal in sweep.goals), unit(sweep.budget), "time")

    def cells(row: TrialRecord) -> tuple[str, ...]:
        reached = f"{sweep.budget.epoch_of(row.step):g}"
        values = (scalar(row.params[name]) if name in row.params else "" for name in params)
        return (str(row.number), row.state, *goal_cells(row, sweep), reached, duration(row.seconds), *values)

    return Board(tuple(map(clean, fixed)), tuple(map(clean, params)), tuple(map(cells, rows)))


def trial_document(sweep: Sweep, row: TrialRecord) -> dict[str, Any]:
    """Build the document of one trial, for JSON and CSV. Its state is Optuna's, which knows no INTERRUPTED."""
    reached = {unit(sweep.budget): sweep.budget.epoch_of(row.step)}
    # Not `asdict`, which copies every value: with 10,000 trials that takes a second.
    facts = {key: value for key, value in vars(row).items() if key not in ("params", "resumed", "spent", "others")}
    if len(sweep.goals) > 1:
        facts["goals"] = goal_values(sweep, row)
    is_interrupted = row.state == INTERRUPTED
    state = {"state": "RUNNING" if is_interrupted else row.state, "interrupted": is_interrupted}
    return facts | state | reached | {"seconds": row.seconds, "params": dict(row.params)}


def study_document(
    sweep: Sweep, rows: Sequence[TrialRecord], failed: Mapping[int, Sequence[Attempt]]
) -> dict[str, Any]:
    """Build the document of `show --json`; `failed` has the failed attempts by the number of their trial."""
    return {
        "name": sweep.name,
        "metric": sweep.objective.metric,
        "direction": sweep.objective.direction,
        "trials": [attempts_document(sweep, row, failed.get(row.number, ())) for row in rows],
    }


def attempts_document(sweep: Sweep, row: TrialRecord, failed: Sequence[Attempt]) -> dict[str, Any]:
    """Build the document of one trial with its failed attempts."""
    return trial_document(sweep, row) | {"failed_attempts": [asdict(attempt) for attempt in failed]}


def result_document(result: SweepResult) -> dict[str, Any]:
    """Build the document of `run --json`."""
    champion = result.champion
    return {
        "name": result.name,
        "metric": result.sweep.objective.metric,
        "direction": result.sweep.objective.direction,
        **goals_document(result.sweep, result.front),
        "counts": result.counts,
        "interrupted": result.counts.get("RUNNING", 0),
        "best": trial_document(result.sweep, result.best) if result.best else None,
        "test": result.evaluation,
        "champion": None if champion is None else asdict(champion),
        "confirmation": confirmation_document(result.confirmation),
        "reports_run": result.reports_run,
        "reports_budgeted": result.reports_budgeted,
        "saved": saved(result),
        "used": [asdict(amount) for amount in result.used],
        "stopped": result.stop_message,
        "seconds": round(result.seconds, 3),
        "resumed": result.resumed,
        "folder": str(result.folder),
        "tracking_uri": redact(result.tracking_uri),
        "delivered": result.is_delivered,
        "notes": list(result.notes),
    }


def confirmation_document(found: Confirmation | None) -> dict[str, Any] | None:
    """Build the document of the best trials that were trained again with fresh seeds; None if none was."""
    if found is None:
        return None
    best = None if found.best is None else found.best.trial
    contenders = [{**asdict(each), "mean": each.mean, "values": list(each.values)} for each in found.contenders]
    seeds = {"seeds": found.seeds, "complete": found.is_complete, "best": best, "p_value": found.p_value}
    compared = [{**asdict(test), "p_value": None if test.missing else test.p_value} for test in found.compared]
    return seeds | {"contenders": contenders, "mcnemar": compared}


def status_document(study: StudyView, summary: SweepSummary) -> dict[str, Any]:
    """Build the document of `status --json` for a sweep on this machine."""
    best = study.best()
    return {
        "name": study.name,
        "state": summary.state,
        "counts": summary.counts,
        "interrupted": 0 if summary.running else summary.counts.get("RUNNING", 0),
        "trials": study.trial_limit,
        "metric": summary.metric,
        "direction": summary.direction,
        **goals_document(study.sweep, study.leaderboard(front=True)),
        "best": None if best is None else {"trial": best.number, "value": best.value},
    }


def summary_document(summary: SweepSummary) -> dict[str, Any]:
    """Build the document of one sweep of `list --json`."""
    interrupted = 0 if summary.running else summary.counts.get("RUNNING", 0)
    return asdict(summary) | {"state": summary.state, "interrupted": interrupted}


def saved(result: SweepResult) -> float | None:
    """Return the share of reports that pruning made unnecessary; None without a pruner, or while trials are running."""
    if not result.reports_budgeted or result.counts.get("RUNNING") or result.sweep.chosen_pruner.type == "none":
        return None
    return 1 - result.reports_run / result.reports_budgeted


def to_json(value: object) -> str:
    """Write JSON that every parser accepts: no NaN, ASCII only, times as ISO 8601."""
    return json.dumps(_jsonable(value), indent=2, allow_nan=False)


def to_csv(sweep: Sweep, rows: Sequence[TrialRecord]) -> str:
    """Write all trials as CSV, one column per parameter."""
    names = list(sweep.space) or sorted({name for row in rows for name in row.params})
    measures = ("number", "state", "value", unit(sweep.budget), "seconds", "attempt", "node", "reason", "started")
    facts = (*measures, "ended", "interrupted", "origin")
    others = [goal.metric for goal in sweep.goals[1:]]
    cells = []
    for row in rows:
        one, values = trial_document(sweep, row), goal_values(sweep, row)
        own = [row.params.get(name, "") for name in names]
        cells.append([*(one[fact] for fact in facts), *(values[name] for name in others), *own])
    return csv_text((*facts, *(f"goals.{name}" for name in others), *names), cells)


def csv_text(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a table as CSV; text that a spreadsheet would run as a formula is quoted."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([_csv_cell(cell) for cell in cells] for cells in (head, *rows))
    return buffer.getvalue()


def report_documents(sweep: Sweep, reports: Sequence[Report]) -> list[dict[str, Any]]:
    """Build the documents of the reports of a trial: number, place in epochs or steps, time (UTC), all metrics."""
    place = unit(sweep.budget).removesuffix("s")
    return [
        {
            "report": one.step,
            place: sweep.budget.epoch_of(one.step),
            "time": datetime.fromtimestamp(one.time, UTC),
            "metrics": dict(one.metrics),
        }
        for one in reports
    ]


def reports_csv(sweep: Sweep, rows: Sequence[TrialRecord], reports: Mapping[int, Sequence[Report]]) -> str:
    """Write every report of these trials as CSV: a row for each, a column for every metric, the objective's first."""
    place, objective = unit(sweep.budget).removesuffix("s"), sweep.objective.metric
    made = [(row, one) for row in rows for one in report_documents(sweep, reports.get(row.number, ()))]
    names = dict.fromkeys([objective, *(name for _, one in made for name in one["metrics"])])
    facts = ("trial", "state", "report", place, "time")
    heads = [f"metrics.{name}" if name in facts else name for name in names]
    cells = []
    for row, one in made:
        measured = [one["metrics"].get(name, "") for name in names]
        cells.append([row.number, row.state, one["report"], one[place], one["time"], *measured])
    return csv_text((*facts, *heads), cells)


def sweep_line(sweep: Sweep) -> str:
    """Describe a sweep in one line, for `validate`."""
    budget, searched = sweep.budget, varying(sweep)
    length = f"{budget.epoch_of(budget.reports):g} {unit(budget)}"
    conditional = sum(bool(sweep.space[name].when) for name in searched)
    parameters = f"{len(searched)} parameters" + (f" ({conditional} conditional)" if conditional else "")
    decides = " + ".join(
        chosen.type if chosen == declared else f"{chosen.type} (auto)"
        for declared, chosen in ((sweep.sampler, sweep.chosen_sampler), (sweep.pruner, sweep.chosen_pruner))
    )
    goals = describe_objective(sweep)
    return clean(f"{sweep.name}: {sweep.trial_limit} trials of {length}, {parameters}, {decides}, {goals}")


def best_yaml(sweep: Sweep, row: TrialRecord) -> str:
    """Write the best trial as YAML, for `best`: the `space` of a sweep, each parameter a constant."""
    heading = clean(f"{sweep.name}, trial {row.number}: {describe_goals(row, sweep)}")
    return f"# {heading}\n{to_yaml({'space': dict(row.params)}, ascii_only=True)}"


def _csv_cell(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if not isinstance(value, str):
        return value
    text = clean(value)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _jsonable(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.isoformat()
    return value if value is None or isinstance(value, str | bool | int) else str(value)
