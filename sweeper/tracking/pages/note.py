"""The description of a sweep's run in MLflow: what came of the sweep, and where to see more, as markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweeper.core.text import clean, metric, number, tally
from sweeper.tracking.content import FRONT
from sweeper.tracking.pages.links import REPORT, Pages
from sweeper.tracking.pages.view import view_key

if TYPE_CHECKING:
    from sweeper.core.trials import Champion, TrialRecord
    from sweeper.tracking.content import Study

MODEL_TAG, TEST_TAG = "sweeper.model", "sweeper.test"
"""Tags of the sweep's run: what became of the best model, as markdown, and its metrics on the test set."""

_WORDS = {"RUNNING": "runs", "STOPPED": "has stopped", "COMPLETE": "is done", "FAIL": "has failed"}


@dataclass(frozen=True)
class Places:
    """Where the things are that a description links to.

    Attributes:
        run: id of the sweep's run.
        best: id of the run of the best trial.
        has_view: whether the experiment has the view of the sweep.
        has_report: whether the run has the report.
    """

    experiment: str
    run: str
    best: str | None = None
    has_view: bool = False
    has_report: bool = False


def sweep_note(study: Study, rows: Sequence[TrialRecord], places: Places, tags: Mapping[str, str]) -> str:
    """Return the description of a sweep's run.

    Args:
        tags: those of the run.
    """
    sweep, pages = study.sweep, Pages("", places.experiment)
    state = tags.get("sweeper.state", "RUNNING")
    counts = tally({name: sum(row.state == name for row in rows) for name in {row.state for row in rows}})
    if state == "STOPPED":
        counts = counts.replace(" running", " interrupted")
    lines = [f"Sweep **{sweep.name}** {_WORDS[state]}: {counts}."]
    if (best := study.best()) is not None:
        name = f"trial {best.number}"
        trial = f"[{name}]({pages.run(places.best)})" if places.best else name
        lines.append(f"Best: **{_plain(sweep.objective.metric)} {metric(best.value)}**, {trial}.")
        if front := tags.get(FRONT):
            lines.append(f"On the front of {len(sweep.goals)} goals: trials {front}.")
        found = study.confirmation()
        if found is not None and found.best is not None and found.best.half_width is not None:
            seeds, width = len(found.best.values), number(found.best.half_width, 2)
            lines.append(f"Confirmed with {seeds} fresh seeds: **{metric(found.best.mean)} ± {width}**.")
        if tested := tags.get(TEST_TAG):
            lines.append(f"On the test set: {_plain(tested)}.")
        if model := tags.get(MODEL_TAG):
            lines.append(f"Model: {model}.")
    links = []
    if places.has_view and study.id is not None:
        shared = {"viewStateShareKey": view_key(study.id)}
        links.append(f"[charts of all trials]({pages.trials(shared | {'compareRunsMode': 'CHART'})})")
        links.append(f"[table of all trials]({pages.trials(shared)})")
    if links:
        lines.append(f"See: {', '.join(links)}.")
    note = "\n\n".join([*lines, *([sweep.description] if sweep.description else [])])
    return with_report(note, places.experiment, places.run) if places.has_report else note


def with_report(note: str, experiment: str, run: str) -> str:
    """Return a description with a link to the report, if it has none."""
    link = f"[The report on the sweep]({Pages('', experiment).artifact(run, REPORT)})"
    return note if link in note else f"{note}\n\n{link}"


def outcome_tags(champion: Champion | None, trial: TrialRecord, evaluation: Mapping[str, float]) -> dict[str, str]:
    """Return the tags of the sweep's run that tell its outcome: the registered model, and its test metrics."""
    tags = {TEST_TAG: ", ".join(f"{name} {metric(value)}" for name, value in evaluation.items())} if evaluation else {}
    if champion is None or champion.reason == "as before":
        return tags
    if champion.name is None or champion.version is None:
        return tags | {MODEL_TAG: f"that of trial {trial.number}, {_plain(champion.reason)}"}
    version = f"[{_plain(champion.name)} version {champion.version}]"
    place = Pages("", "").model(champion.name, champion.version)
    role = ", champion" if champion.promoted else ""
    return tags | {MODEL_TAG: f"{version}({place}), of trial {trial.number}{role} ({_plain(champion.reason)})"}


def _plain(text: str) -> str:
    """Escape what markdown would read as markup."""
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", clean(text))
