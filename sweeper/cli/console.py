"""Output for people, with rich: tables and the result of a sweep on stdout, notes, warnings and errors on stderr."""

from __future__ import annotations

import os
import shlex
import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from sweeper.analysis.trials import (
    CONFIRMED_HEAD,
    INTERRUPTED,
    PAUSED,
    as_seen,
    confirmed_cells,
    counts_as_seen,
    cut_reason,
    describe_confirmed,
    describe_front,
    describe_goals,
    remark_on_pruned,
    unit,
)
from sweeper.cli.cluster import reach
from sweeper.cli.report import Board, board, saved
from sweeper.core.secrets import redact
from sweeper.core.text import clean, duration, metric, shorten, tally

if TYPE_CHECKING:
    from sweeper.analysis.result import SweepResult
    from sweeper.core.confirmation import Confirmation
    from sweeper.core.trials import Attempt, Champion, TrialRecord
    from sweeper.spec import Sweep

STATE_STYLES = {
    "RUNNING": "cyan",
    INTERRUPTED: "magenta",
    "COMPLETE": "green",
    PAUSED: "blue",
    "PRUNED": "yellow",
    "FAIL": "red",
    "WAITING": "dim",
}

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


def print_table(rendered: RenderableType) -> None:
    """Print a table on stdout; in a file or a pipe without the blanks with which rich fills the last column."""
    if out.is_terminal:
        out.print(rendered)
        return
    with out.capture() as captured:
        out.print(rendered)
    lines = captured.get().removesuffix("\n").split("\n")
    out.file.write("".join(f"{line.rstrip()}\n" for line in lines))


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
    sweep: Sweep,
    rows: Sequence[TrialRecord],
    failed: Mapping[int, Sequence[Attempt]],
    *,
    limit: int | None,
    remarks: Sequence[str] = (),
) -> None:
    """Print the first `limit` trials, the reasons of failures and retries, and a hint at what was left out.

    Args:
        failed: the failed attempts by the number of their trial.
        remarks: what a person should know beside the numbers.
    """
    shown = rows[:limit]
    rendered, hidden = leaderboard(board(sweep, shown), out.width)
    print_table(rendered)
    for row in [row for row in rows if row.state == "FAIL"][:5]:
        label = f"trial {row.number}: "
        _print_line("failed ", "red", label + cut_reason(row.reason or "unknown reason", out.width - 8 - len(label)))
    ended = {row.number: row for row in rows if row.state != "FAIL"}
    for number, attempt in [(trial, past) for trial in failed if trial in ended for past in failed[trial]][:5]:
        _print_line("retried ", "yellow", f"trial {number}, {_attempt_line(sweep, attempt)}")
    rest = list(remarks)
    if failures := [row.number for row in rows if row.state == "FAIL"]:
        rest.append(f"all about a failure: sweeper show {sweep.name} {failures[0]}")
    if len(rows) > len(shown):
        rest.append(f"{len(rows) - len(shown)} more trials: --all")
    if hidden:
        rest.append(f"too narrow for {', '.join(hidden)}: --csv or --json")
    for line in rest:
        out.print(Text(clean(line), "dim"), soft_wrap=True)


def _attempt_line(sweep: Sweep, attempt: Attempt) -> str:
    place = f"at {unit(sweep.budget).removesuffix('s')} {sweep.budget.epoch_of(attempt.step):g}"
    where = f" on {attempt.node}" if attempt.node else ""
    return f"attempt {attempt.attempt}: {attempt.reason}, {place}{where}"


def _print_line(label: str, style: str, text: str) -> None:
    """Print one line, cut to the width of the terminal."""
    out.print(Text.assemble((label, style), shorten(clean(text), out.width - len(label))), soft_wrap=True)


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Print a label and a text per line."""
    rendered = Table(box=None, show_header=False, padding=(0, _GAP, 0, 0), pad_edge=False)
    for name, text in facts:
        rendered.add_row(Text(name, "dim"), Text(text, overflow="fold"))
    print_table(rendered)


def print_links(links: Sequence[tuple[str, str]]) -> None:
    """Print a title and a URL per line; URLs are never wrapped."""
    width = max(len(title) for title, _ in links) + _GAP
    for title, url in links:
        out.print(Text.assemble((f"{title:<{width}}", "dim"), clean(url)), soft_wrap=True)


def print_confirmation(found: Confirmation) -> None:
    """Print a line for each of the best trials that were trained again with fresh seeds."""
    rendered = table(CONFIRMED_HEAD)
    for cells in confirmed_cells(found):
        rendered.add_row(*map(Text, cells))
    out.print()
    print_table(rendered)


def print_result(result: SweepResult) -> None:
    """Print the result of a sweep: the ten best trials, what pruning saved, the champion, and the next commands."""
    ended = f", {cut_reason(result.stop_message)}" if result.stop_message else ""
    counts = tally(counts_as_seen(result.counts, is_running=False))
    out.print(Text(f"{result.name}: {counts}; {duration(result.seconds)}{ended}", "bold"))
    rows = as_seen(result.leaderboard[:10], is_running=False)
    rendered, hidden = leaderboard(board(result.sweep, rows), out.width)
    out.print()
    print_table(rendered)
    if hidden:
        command = _command("show", result)
        out.print(Text(clean(f"too narrow for {', '.join(hidden)}: {command} --csv"), "dim"), soft_wrap=True)
    if result.confirmation is not None:
        print_confirmation(result.confirmation)
    out.print()
    print_facts([(name, clean(text)) for name, text in _facts(result)])


def _facts(result: SweepResult) -> list[tuple[str, str]]:
    """Return the facts below the leaderboard, each with its label."""
    facts = [*outcome_facts(result), ("folder", folder_line(result))]
    best = "best --front" if len(result.sweep.goals) > 1 else "best"
    verbs = ["resume"] * (result.stopped is not None) + ["show"] + [best] * (result.best is not None) + ["ui"]
    return facts + [("next" if index == 0 else "", _command(verb, result)) for index, verb in enumerate(verbs)]


def outcome_facts(result: SweepResult) -> list[tuple[str, str]]:
    """Return what pruning saved, the best trial, and its model, each with its label."""
    facts = [("pruning", line)] if (line := _pruning_line(result)) else []
    facts += [("budget" * (index == 0), str(amount)) for index, amount in enumerate(result.used)]
    if result.best is not None:
        metrics = ", ".join(f"{name} {metric(value)}" for name, value in (result.evaluation or {}).items())
        found = f"trial {result.best.number}, {describe_goals(result.best, result.sweep)}"
        facts.append(("best", found + (f"; on the test set: {metrics}" if metrics else "")))
    if front := describe_front(result.leaderboard, result.sweep):
        facts.append(("front", front))
    if remark := remark_on_pruned(result.leaderboard, result.sweep):
        facts.append(("", remark))
    champion = result.champion
    if result.confirmation is not None and result.sweep.confirm is not None:
        lines = describe_confirmed(result.confirmation, result.sweep.objective.direction)
        facts += [("confirmed" * (index == 0), line) for index, line in enumerate(lines)]
    if champion is not None:
        facts += [("model", _champion_line(champion)), ("", champion.uri)]
    return facts


def folder_line(result: SweepResult) -> str:
    """Say where the folder of a sweep is, and how large the checkpoints in it are."""
    return f"{result.folder} ({result.checkpoint_bytes / 1e6:.1f} MB of checkpoints)"


def _champion_line(champion: Champion) -> str:
    """Say whether the best model is the champion, and why."""
    if champion.version is None:
        return champion.reason
    return f"{champion.name} version {champion.version}{' is the champion' * champion.promoted} ({champion.reason})"


def _pruning_line(result: SweepResult) -> str:
    """Describe what pruning saved; empty if it saved nothing."""
    budget, run, budgeted = result.sweep.budget, result.reports_run, result.reports_budgeted
    if result.sweep.chosen_pruner.type == "none" or budgeted <= run:
        return ""
    each = budget.epoch_of(budget.reports) / budget.reports
    if (share := saved(result)) is None:  # trials are left: the share is not known yet
        return f"saved {(budgeted - run) * each:g} {unit(budget)} so far"
    return f"ran {run * each:g} of {budgeted * each:g} {unit(budget)}, saved {share:.0%}"


def _command(verb: str, result: SweepResult) -> str:
    return f"sweeper {verb} {shlex.quote(result.name)}{storage_option(result.sweep)}"


def storage_option(sweep: Sweep) -> str:
    """Return the option that names the database, if it is not the one that the verbs open by default."""
    if (cluster := reach.storage_option()) is not None:
        return cluster
    storage = sweep.storage
    return "" if storage in ("sqlite:///sweeper.db", "${env:SWEEPER_STORAGE}") else f" --storage {shlex.quote(storage)}"
