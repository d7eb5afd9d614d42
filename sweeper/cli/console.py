"""Output for people, with rich: tables and the result of a sweep on stdout, notes, warnings and errors on stderr."""

from __future__ import annotations

import os
import shlex
import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweeper.cli.report import Board, board, clean, duration, metric, saved, tally, unit
from sweeper.core.secrets import redact

if TYPE_CHECKING:
    from sweeper.cli.doctor import Check
    from sweeper.core.trials import Attempt, TrialRecord
    from sweeper.run import SweepResult
    from sweeper.spec import Sweep
    from sweeper.study.view import SweepSummary
    from sweeper.tracking import Champion

STATE_STYLES = {"RUNNING": "cyan", "COMPLETE": "green", "PRUNED": "yellow", "FAIL": "red", "WAITING": "dim"}

_PIPE_COLUMNS = 200
_GAP = 2


def _console(fd: int) -> Console:
    # rich asks a terminal for its width. In a file or a pipe it would cut tables at 80 columns.
    width = None if os.isatty(fd) or "COLUMNS" in os.environ else _PIPE_COLUMNS
    return Console(stderr=fd == 2, width=width, markup=False, highlight=False, emoji=False)


out = _console(1)
"""Results."""
err = _console(2)
"""Notes, warnings, errors and progress."""


def print_error(message: str) -> None:
    """Print a red line per problem, with passwords masked and control characters escaped."""
    for line in redact(message).splitlines() or [""]:
        err.print(Text.assemble(("error: ", "bold red"), (clean(line), "red")), soft_wrap=True)


def print_traceback(error: BaseException) -> None:
    """Print the traceback of an error, with passwords masked."""
    text = redact("".join(traceback.format_exception(error)))
    err.print(Text("\n".join(map(clean, text.splitlines())), "dim"), soft_wrap=True)


def print_warning(message: str) -> None:
    """Print the message of a log record, which may contain a traceback."""
    text = "\n".join(map(clean, redact(message).splitlines()))
    err.print(Text.assemble(("warning: ", "bold yellow"), text), soft_wrap=True)


def print_note(message: str) -> None:
    """Print what the user should know, with passwords masked and control characters escaped."""
    err.print(Text.assemble(("note: ", "bold yellow"), clean(redact(message))), soft_wrap=True)


def shorten(text: str, length: int = 24) -> str:
    """Cut a text to a length."""
    return text if len(text) <= length else text[: max(0, length - 1)] + "…"


def table(columns: Sequence[str]) -> Table:
    """Make a table with a dim heading and without a frame."""
    result = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="dim")
    for column in columns:
        result.add_column(Text(column), no_wrap=True)
    return result


def columns_that_fit(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> int:
    """Return how many columns, from the first, fit into the width without a cut."""
    used = 0
    for index, column in enumerate(columns):
        used += max([cell_len(column), *(cell_len(shorten(row[index])) for row in rows)]) + (_GAP if index else 0)
        if used > width:
            return index
    return len(columns)


def leaderboard(cells: Board, width: int) -> tuple[Table, tuple[str, ...]]:
    """Make a table of trials at most `width` wide; return it and the parameters that did not fit."""
    columns = (*cells.fixed, *cells.params)
    fitting = max(len(cells.fixed), columns_that_fit(columns, cells.rows, width))
    rendered = table(columns[:fitting])
    for row in cells.rows:
        style = STATE_STYLES.get(row[1], "")
        rendered.add_row(
            *(Text(shorten(cell), style if index == 1 else "") for index, cell in enumerate(row[:fitting]))
        )
    return rendered, columns[fitting:]


def print_leaderboard(
    sweep: Sweep, rows: Sequence[TrialRecord], failed: Mapping[int, Sequence[Attempt]], *, limit: int | None
) -> None:
    """Print the first `limit` trials, the reasons of failures and retries, and a hint at what was left out."""
    shown = rows[:limit]
    rendered, hidden = leaderboard(board(sweep, shown), out.width)
    out.print(rendered)
    for row in [row for row in rows if row.state == "FAIL"][:5]:
        out.print(Text.assemble(("failed ", "red"), f"trial {row.number}: {clean(row.reason or 'unknown reason')}"))
    ended = {row.number: row for row in rows if row.state != "FAIL"}
    retried = [(trial, past) for trial in failed if trial in ended for past in failed[trial]]
    for number, attempt in retried[:5]:
        place = f"at {unit(sweep.budget).removesuffix('s')} {sweep.budget.epoch_of(attempt.step):g}"
        where = f" on {attempt.node}" if attempt.node else ""
        line = f"trial {number}, attempt {attempt.attempt}: {attempt.reason}, {place}{where}"
        out.print(Text.assemble(("retried ", "yellow"), clean(line)))
    rest = []
    if len(rows) > len(shown):
        rest.append(f"{len(rows) - len(shown)} more trials: --all")
    if hidden:
        rest.append(f"too narrow for {', '.join(hidden)}: --json")
    if rest:
        out.print(Text("; ".join(rest), "dim"))


def print_sweeps(summaries: Sequence[SweepSummary]) -> None:
    """Print one line per sweep."""
    rendered = table(("sweep", "created", "trials", "", "metric", "best"))
    for summary in summaries:
        created = summary.created.astimezone().strftime("%Y-%m-%d %H:%M") if summary.created else ""
        cells = (
            f"{summary.ended}/{summary.trials}",
            summary.state,
            f"{summary.metric} ({summary.direction})",
            metric(summary.best),
        )
        rendered.add_row(*(Text(clean(cell)) for cell in (summary.name, created, *cells)))
    out.print(rendered)


def print_links(links: Sequence[tuple[str, str]]) -> None:
    """Print a title and a URL per line; URLs are never wrapped."""
    width = max(len(title) for title, _ in links) + _GAP
    for title, url in links:
        out.print(Text.assemble((f"{title:<{width}}", "dim"), clean(url)), soft_wrap=True)


def print_check(check: Check) -> None:
    """Print one finding of the doctor and its advice."""
    style = {"ok": "green", "warn": "yellow", "fail": "bold red"}[check.state]
    out.print(Text.assemble((f"{check.state:<5}", style), f"{check.name:<13} ", clean(check.found)), soft_wrap=True)
    if check.advice:
        out.print(Text(f"{'':<19}{clean(check.advice)}", "dim"), soft_wrap=True)


def print_result(result: SweepResult) -> None:
    """Print the result of a sweep: the ten best trials, what pruning saved, the champion, and the next commands."""
    ended = f", {result.stop_message}" if result.stop_message else ""
    out.print(Text(f"{result.name}: {tally(result.counts)}; {duration(result.seconds)}{ended}", "bold"))
    rendered, _ = leaderboard(board(result.sweep, result.leaderboard[:10]), out.width)
    out.print()
    out.print(rendered)
    out.print()
    facts = Table(box=None, show_header=False, padding=(0, _GAP, 0, 0), pad_edge=False)
    for name, text in _facts(result):
        facts.add_row(Text(name, "dim"), Text(clean(text), overflow="fold"))
    out.print(facts)


def _facts(result: SweepResult) -> list[tuple[str, str]]:
    """Return the facts below the leaderboard, each with its label."""
    facts = [] if result.sweep.pruner.type == "none" else [("pruning", _pruning_line(result))]
    if result.best is not None:
        metrics = ", ".join(f"{name} {metric(value)}" for name, value in (result.evaluation or {}).items())
        facts.append(("best", f"trial {result.best.number}" + (f", on the test set: {metrics}" if metrics else "")))
    champion = result.champion
    if champion is not None:
        facts += [("model", _champion_line(champion)), ("", champion.uri)]
    facts.append(("folder", f"{result.folder} ({result.checkpoint_bytes / 1e6:.1f} MB of checkpoints)"))
    verbs = ("show", "best", "ui") if result.best else ("show", "ui")
    commands = [f"sweeper {verb} {shlex.quote(result.name)}{_storage_option(result)}" for verb in verbs]
    return facts + [("next" if index == 0 else "", command) for index, command in enumerate(commands)]


def _champion_line(champion: Champion) -> str:
    """Say whether the best model is the champion, and why."""
    if champion.version is None:
        return champion.reason
    champion_now = " is the champion" if champion.promoted else ""
    return f"{champion.name} version {champion.version}{champion_now} ({champion.reason})"


def _pruning_line(result: SweepResult) -> str:
    budget, run, budgeted = result.sweep.budget, result.reports_run, result.reports_budgeted
    each = budget.epoch_of(budget.reports) / budget.reports
    share = saved(result)
    return f"ran {run * each:g} of {budgeted * each:g} {unit(budget)}" + (f", saved {share:.0%}" if share else "")


def _storage_option(result: SweepResult) -> str:
    """Return the option that names the database, if it is not the one that the verbs open by default."""
    storage = result.sweep.storage
    return "" if storage in ("sqlite:///sweeper.db", "${env:SWEEPER_STORAGE}") else f" --storage {shlex.quote(storage)}"
