"""The verbs that show a study: `list`, `show`, `best`.

Heavy imports, rich included, are inside the verbs, so that `sweeper --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeper.cli import goals, options, report
from sweeper.core.errors import InputError, SweeperError
from sweeper.core.text import clean, duration, metric

if TYPE_CHECKING:
    from sweeper.core.trials import TrialRecord
    from sweeper.spec import Sweep
    from sweeper.study.view import StudyView, SweepSummary

SHOWN_TRIALS, HIGHLIGHTED = 20, 5
"""Trials in a leaderboard without --all, and how many of their curves stand out."""


def list_sweeps(storage: options.Storage = options.DEFAULT_STORAGE, json: options.Json = False) -> None:
    """List the sweeps of a database, newest first."""
    from sweeper.study import open

    summaries = open.list_sweeps(storage)
    if json:
        report.emit(report.to_json([report.summary_document(summary) for summary in summaries]))
    else:
        _print_sweeps(summaries)


def _print_sweeps(summaries: Sequence[SweepSummary]) -> None:
    """Print one line per sweep."""
    from rich.text import Text

    from sweeper.cli.console import print_table, table

    rendered = table(("sweep", "started", "time", "trials", "failed", "", "metric", "best"))
    for summary in summaries:
        cells = (
            summary.name,
            summary.created.astimezone().strftime("%Y-%m-%d %H:%M") if summary.created else "",
            duration(summary.seconds) if summary.seconds else "",
            f"{summary.ended}/{summary.trials}",
            str(summary.counts.get("FAIL") or ""),
            summary.state,
            f"{summary.direction[:3]} {summary.metric}",
            metric(summary.best),
        )
        rendered.add_row(*(Text(clean(cell)) for cell in cells))
    print_table(rendered)


_Sort = Annotated[
    str | None,
    typer.Option(
        "--sort", metavar="KEY", help="Sort by a parameter, value, time or number; -KEY: the other way round."
    ),
]
_State = Annotated[
    list[str] | None, typer.Option("--state", metavar="STATE", help="Only trials in this state. Repeatable.")
]
_Where = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="EXPR", help='Only trials of which this is true: "units > 64". Repeatable.'),
]
_Curves = Annotated[
    bool, typer.Option("--curves", metavar="", help="Draw the learning curves; with --csv or --json, every report.")
]


def show(
    name: options.OptionalName = None,
    trial: options.OneTrial = None,
    everything: options.All = False,
    sort: _Sort = None,
    state: _State = None,
    where: _Where = None,
    curves: _Curves = False,
    csv: options.Csv = False,
    storage: options.Storage = options.DEFAULT_STORAGE,
    json: options.Json = False,
) -> None:
    """Print what a sweep has come to and its leaderboard; with a trial, why it ended as it did, and all about it."""
    from sweeper.analysis.filters import select
    from sweeper.analysis.names import parse_target, trial_named
    from sweeper.analysis.trials import as_seen
    from sweeper.study.open import read_study

    chosen, numbers = parse_target(name or chosen_sweep(None, storage), [] if trial is None else [trial])
    if numbers and (sort or state or where or everything):
        raise InputError(
            "--sort, --state, --where and --all are for the leaderboard, and a trial is named too; leave one out"
        )
    study = read_study(chosen, storage)
    rows = as_seen([trial_named(study, number) for number in numbers], is_running=study.is_running)
    if numbers and not csv:
        _show_trial(study, rows[0], json=json)
        return
    if not numbers:
        known = as_seen(study.leaderboard(), is_running=study.is_running)
        rows = select(study.sweep, known, states=state or (), where=where or (), sort=sort)
    if csv:
        text = (
            report.reports_csv(study.sweep, rows, study.all_reports()) if curves else report.to_csv(study.sweep, rows)
        )
        report.emit(text)
    elif json:
        report.emit(report.to_json(_document(study, rows, curves=curves)))
    else:
        _show_leaderboard(study, rows, limit=None if everything else SHOWN_TRIALS, curves=curves)


def _show_trial(study: StudyView, row: TrialRecord, *, json: bool) -> None:
    from sweeper.cli.look import trial

    if json:
        report.emit(report.to_json(trial.trial_document(study, row)))
    else:
        trial.print_trial(study, row)


def _show_leaderboard(study: StudyView, rows: Sequence[TrialRecord], *, limit: int | None, curves: bool) -> None:
    from sweeper.analysis.curves import curves_of
    from sweeper.cli import console
    from sweeper.cli.look import trial
    from sweeper.cli.look.summary import print_summary

    print_summary(study)
    if not rows and study.rows():
        report.emit(f"None of the {len(study.rows())} trials is as asked for.")
        return
    if curves:
        shown = rows[:limit]
        trial.print_curves(study, curves_of(study, shown), {row.number for row in shown[:HIGHLIGHTED]})
    console.print_leaderboard(study.sweep, rows, study.attempts(), limit=limit, remarks=study.remarks())


def _document(study: StudyView, rows: Sequence[TrialRecord], *, curves: bool) -> dict[str, Any]:
    """Build the document of `show --json`; with `curves`, each trial has its reports and decisions."""
    from sweeper.cli.look.summary import summary_document

    document = report.study_document(study.sweep, rows, study.attempts())
    if curves:
        reports, decisions = study.all_reports(), study.decisions()
        for found in document["trials"]:
            found["decisions"] = [asdict(decision) for decision in decisions.get(found["number"], ())]
            found["reports"] = report.report_documents(study.sweep, reports.get(found["number"], ()))
    facts = study.facts
    summary = goals.goals_document(study.sweep, study.leaderboard(front=True))
    summary |= {"history": facts.get("history"), "eras": facts.get("eras", []), "summary": summary_document(study)}
    return document | summary


_Front = Annotated[
    bool, typer.Option("--front", metavar="", help="All trials on the front of several goals, as start points.")
]


def best(
    name: options.OptionalName = None,
    front: _Front = False,
    storage: options.Storage = options.DEFAULT_STORAGE,
    json: options.Json = False,
) -> None:
    """Print the best parameters as YAML, to paste into a space."""
    from sweeper.analysis.trials import is_done, remark_on_pruned
    from sweeper.study.open import read_study

    study = read_study(chosen_sweep(name, storage), storage)
    if front:
        _refuse_single_goal(study.sweep)
    complete = (row for row in study.leaderboard() if row.state == "COMPLETE")
    row = next((row for row in complete if row.reused or not row.is_added), None)  # its parameters, not its model
    if row is None:
        is_over = not study.is_running and is_done(study)
        how = ", and all its trials have ended" if is_over else " yet"
        raise SweeperError(f"no trial of sweep {study.name!r} has completed{how}. See: sweeper show {study.name}")
    if front:
        rows = study.leaderboard(front=True)
        documents = [report.trial_document(study.sweep, each) for each in rows]
        text = report.to_json(documents) if json else goals.front_yaml(study.sweep, rows)
        report.emit(text)
        return
    if json:
        report.emit(report.to_json(report.trial_document(study.sweep, row)))
        return
    if remark := remark_on_pruned(study.rows(), study.sweep):
        from sweeper.cli import console

        console.print_note(remark)
    report.emit(report.best_yaml(study.sweep, row))


def _refuse_single_goal(sweep: Sweep) -> None:
    if len(sweep.goals) == 1:
        raise InputError(
            f"--front: sweep {sweep.name!r} has one goal, {sweep.objective.metric}, and so one best trial; leave it "
            "out. A list of goals in `objective` has a front"
        )


def chosen_sweep(name: str | None, storage: str) -> str:
    """Return the name of the sweep that a command is for: the newest of the database if it names none, with a note."""
    if name is not None:
        return name
    from sweeper.analysis.names import newest_sweep
    from sweeper.cli import console

    name = newest_sweep(storage)
    console.print_note(f"{name} is the newest sweep, and no other was named.")
    return name
