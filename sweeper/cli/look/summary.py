"""What a sweep has come to, above its leaderboard: the summary of `run`, from what the study and the folder hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.text import Text

from sweeper.analysis.costs import costs_of
from sweeper.analysis.filters import STATES
from sweeper.analysis.result import SweepResult
from sweeper.analysis.trials import as_seen, folder_at_hand, is_done
from sweeper.cli import console, report
from sweeper.cli.cluster import reach
from sweeper.core.sweep_folder import SweepFolder
from sweeper.core.text import clean, duration, tally

if TYPE_CHECKING:
    from sweeper.analysis.costs import Costs
    from sweeper.study.view import StudyView


def summarise(study: StudyView) -> tuple[SweepResult, Costs]:
    """Return what is known of a sweep, and what it cost until now."""
    place = SweepFolder.of(study.folder, study.name)
    result = SweepResult.recorded(study, place)
    if result.evaluation is None and result.best is not None and "champion" in study.facts:
        from sweeper.tracking import read_evaluation  # an older sweeper wrote the test metrics into the folder only

        known = read_evaluation(place.champion, study.facts["champion"]) if folder_at_hand(study) else None
        if known is not None and known[0] == result.best.number:
            result = replace(result, evaluation=known[1])
    return result, costs_of(study)


def print_summary(study: StudyView) -> None:
    """Print the summary of a sweep: its trials, what pruning saved, the best trial, its model, time and folder."""
    result, costs = summarise(study)
    states = [row.state for row in as_seen(study.rows(), is_running=study.is_running)]
    counts = {state: states.count(state) for state in sorted(set(states))}
    console.out.print(Text(clean(f"{study.name}: {tally(counts)}; {_state(study)}"), "bold"))
    facts = [
        (label, f"{text}, as of the end of the sweep" if label == "model" else text)  # `promote` may have changed it
        for label, text in console.outcome_facts(result)
    ]
    if result.best is not None and result.evaluation is None and is_done(study) and not study.is_running:
        facts.append(("", "no metrics of it on the test set are on record"))
    if costs.seconds:
        facts.append(("time", _time_line(result, costs)))
    is_here = folder_at_hand(study) is not None
    facts.append(("folder", console.folder_line(result) if is_here else f"{result.folder}, not on this machine"))
    console.print_facts([(label, clean(text)) for label, text in facts])
    if result.confirmation is not None and any(each.values for each in result.confirmation.contenders):
        console.print_confirmation(result.confirmation)
    console.out.print()


def summary_document(study: StudyView) -> dict[str, Any]:
    """Build the summary of `show --json`."""
    result, costs = summarise(study)
    document = report.result_document(result)
    kept = ("counts", "interrupted", "best", "test", "champion", "saved", "used", "folder", "tracking_uri", "notes")
    return {name: document[name] for name in (*kept, "confirmation")} | {"state": _state(study), "costs": asdict(costs)}


def _state(study: StudyView) -> str:
    """Return what a sweep does: running, done, or how far it came."""
    if study.is_running:
        return f"running, {study.trial_limit} trials in all"
    if is_done(study):
        return "done"
    ended = sum(row.state != "RUNNING" for row in study.rows())
    command = f"sweeper resume {study.name}{console.storage_option(study.sweep)}"
    command = "submit it again" if reach.asked() else command
    return f"stopped after {ended} of {study.trial_limit} trials. To continue: {command}"


def _time_line(result: SweepResult, costs: Costs) -> str:
    """Say how long the trials ran in all and by state, and between which moments."""
    parts = [f"{duration(seconds)} {word}" for word, seconds in _in_words(costs.by_state) if seconds]
    of_which = f" ({', '.join(parts)})" if len(parts) > 1 else ""
    started = [row.started for row in result.leaderboard if row.started is not None]
    ended = [row.ended for row in result.leaderboard if row.ended is not None]
    first, last = min(started, default=None), max(ended, default=None)
    between = f", from {_moment(first)} to {_moment(last)}" if first is not None and last is not None else ""
    return f"{duration(costs.seconds)} of trials{of_which}{between}"


def _in_words(by_state: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(tally({state: 1}).removeprefix("1 "), by_state[state]) for state in STATES if state in by_state]


def _moment(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")
