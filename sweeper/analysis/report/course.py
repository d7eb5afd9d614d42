"""Sections about the course of a sweep: history, learning curves, survival, the workers' timeline, failures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from sweeper.analysis.curves import curves_of
from sweeper.analysis.report import figures, plots
from sweeper.analysis.report.material import Material, origin, plain
from sweeper.analysis.report.optuna_study import label, rebuild
from sweeper.analysis.report.parts import Figure, Section, Table
from sweeper.analysis.report.timeline import Lane, sample_lanes, timeline_of
from sweeper.analysis.report.values import MEANINGS, improvements, survival, thinned
from sweeper.analysis.report.values import failures as failures_of
from sweeper.core.text import duration, format_list, metric
from sweeper.core.trials import leaderboard

if TYPE_CHECKING:
    from sweeper.core.trials import TrialRecord

MAX_CURVES = 200
"""Trials in the learning curves. More of them cannot be told apart, and take seconds to draw."""

MAX_RESULTS, MAX_PRUNED = 1000, 1000
"""COMPLETE and pruned trials in the history."""

_FROM = "proposed by"
"""Head of the column that says where the parameters of a trial came from."""

MAX_LANES, MAX_BARS = 64, 400
"""Rows of the timeline, and the part of its length below which attempts share a bar."""


def history(material: Material) -> Section:
    """Return the section with the value of each trial in the order of the trials."""
    name, title = "history", "History"
    if missing := material.missing_results():
        return Section(name, title, missing=missing)
    last = [(row.number, row.value) for row in _thinned_pruned(material) if row.value is not None]
    results = _thinned_results(material)
    shown, note = material.range_of([row.value or 0.0 for row in results], [value for _, value in last])
    found = improvements(material.study.rows(), material.sweep.objective.direction)
    text = f"The {len(material.results):,} COMPLETE trials of {len(material.rows):,}, and the best value so far."
    if last:
        text += " A pruned trial is a ring at its last value, which does not count."
    if len(results) < len(material.results):
        text += f" {len(results):,} of them are drawn: the best, and others at even distances."
    return Section(
        name,
        title,
        (text + note,),
        (
            Figure.of(
                name,
                figures.history(rebuild(material.sweep, results, has_params=False), last, material.drawn_objective),
                f"{material.objective} of each COMPLETE trial by its number, and the best value so far. "
                f"{material.best_sentence}",
                height=380,
                shown=shown,
            ),
        ),
        table=Table.of(
            ("trial", f"new best {material.objective}"), [(str(each.number), metric(each.value)) for each in found]
        ),
        table_title="Trials that were better than all before them",
    )


def _thinned_results(material: Material) -> list[TrialRecord]:
    """Return the COMPLETE trials that the history shows: each new best one is among them."""
    direction = material.sweep.objective.direction
    kept = {row.number for row in thinned(material.results, MAX_RESULTS, direction)}
    kept |= {each.number for each in improvements(material.study.rows(), direction)}
    return [row for row in material.results if row.number in kept]


def _thinned_pruned(material: Material) -> list[TrialRecord]:
    """Return the pruned trials that the history shows."""
    pruned = [row for row in material.study.rows() if row.state == "PRUNED" and math.isfinite(row.value or 0.0)]
    return thinned(pruned, MAX_PRUNED, material.sweep.objective.direction)


def learning_curves(material: Material) -> Section:
    """Return the section with the learning curves, coloured by state."""
    name, title = "curves", "Learning curves"
    reported = [row for row in material.study.rows() if material.reports.get(row.number)]
    if not reported:
        none = "No trial has started yet." if not material.rows else "No trial has made a report."
        return Section(name, title, missing=none)
    shown = thinned(reported, MAX_CURVES, material.sweep.objective.direction)
    figure, note = _curves_figure(material, shown)
    texts = [
        "Each line is a trial, in the colour of its state." + (" The best one is on top." if material.best else "")
    ]
    if len(shown) < len(reported):
        texts.append(
            f"{len(shown)} of {len(reported):,} trials are drawn: the {MAX_CURVES // 2} that lead the leaderboard, and "
            "others at even distances."
        )
    seen = {row.number: row for row in material.rows}
    ranked = [seen[row.number] for row in leaderboard(reported, material.sweep.objective.direction)]
    return Section(
        name,
        title,
        (" ".join(texts) + note,),
        (figure,),
        table=Table.of(
            ("trial", "state", *(f"{place} {material.objective}" for place in ("first", "last")), material.unit, _FROM),
            ranked,
            f"`sweeper show {material.study.name} --curves` has every report.",
            make=partial(_curve_row, material),
        ),
    )


def _curves_figure(material: Material, shown: Sequence[TrialRecord]) -> tuple[Figure, str]:
    """Return the figure of the curves of these trials, and a sentence about its axis."""
    curves, best = curves_of(material.study, shown), material.best
    axis, note = material.range_of([curve.values[-1] for curve in curves if curve.values])
    origins = {row.number: label(origin(row)) for row in shown}
    number, metric_ = best.number if best else None, material.drawn_objective
    figure = plots.learning_curves(curves, number, unit=material.unit, metric=metric_, origins=origins)
    alt = f"{material.objective} of {len(shown)} trials by {material.unit}. {material.best_sentence}"
    return Figure.of("curves", figure, alt, height=460, shown=axis), note


def _curve_row(material: Material, row: TrialRecord) -> tuple[str, ...]:
    first = material.reports[row.number][0].metrics.get(material.sweep.objective.metric)
    return (
        str(row.number),
        row.state,
        metric(first),
        metric(row.value),
        f"{material.sweep.budget.epoch_of(row.step):g}",
        origin(row),
    )


def survival_by_rung(material: Material) -> Section:
    """Return the section with the trials that made each report at which one ended, and what became of them there."""
    name, title = "survival", "Survival by rung"
    rungs = survival(material.rows, material.sweep.budget, material.decisions)
    if not rungs:
        none = "No trial has started yet." if not material.rows else "No trial has made a report."
        return Section(name, title, missing=none)
    unit, pruner = material.unit.removesuffix("s"), material.sweep.chosen_pruner.type
    silent = sum(not row.step for row in material.rows)
    texts = [
        f"How many trials got to each {unit} at which one ended"
        + (" or was compared by the pruner" if material.decisions else "")
        + f", and what became of them there. The pruner is {pruner}."
    ]
    if silent:
        texts.append(f"{silent} trials made no report and are not counted.")
    if not material.decisions and pruner != "none":
        texts.append("What the pruner compared is not recorded in this study.")
    return Section(
        name,
        title,
        (" ".join(texts),),
        (
            Figure.of(
                name,
                plots.survival(rungs, unit=material.unit),
                f"Of {rungs[0].reached} trials that reported, {sum(rung.complete for rung in rungs)} completed and "
                f"{sum(rung.pruned for rung in rungs)} were pruned.",
                height=360,
            ),
        ),
        table=Table.of(
            (unit, "trials", "went on", "complete", "pruned", "failed", "unfinished", "cut-off"),
            [
                (
                    f"{rung.position:g}",
                    *map(str, (rung.reached, rung.went_on, rung.complete, rung.pruned, rung.failed, rung.stopped)),
                    " to ".join(dict.fromkeys(map(metric, rung.cutoffs))) if rung.cutoffs else "",
                )
                for rung in rungs
            ],
        ),
    )


def workers(material: Material) -> Section:
    """Return the section with the timeline of the workers and their idle times."""
    name, title = "timeline", "Workers"
    now = material.moment if material.is_running else None
    found = timeline_of(material.rows, material.attempts, material.reports, now=now)
    if found.start is None or found.end is None:
        none = "No trial has started yet." if not material.rows else "When the trials ran is not recorded."
        return Section(name, title, missing=none)
    lanes = sample_lanes(found.lanes, MAX_LANES)
    busy, idle = sum(lane.busy for lane in found.lanes), sum(lane.idle for lane in found.lanes)
    share = f"{busy / (busy + idle):.0%}" if busy + idle else "none"
    texts = [
        f"Each row is a worker slot of a node, which runs one trial at a time; {_counted(len(found.lanes), 'slot')} of "
        f"{_counted(len({lane.node for lane in found.lanes}), 'node')} ran trials. Trials ran for {duration(busy)} in "
        f"all; between them, workers were idle for {duration(idle)} ({share} busy). Which process ran a trial is not "
        "recorded, only its node."
    ]
    if found.pauses:
        paused = sum((end - start).total_seconds() for start, end in found.pauses)
        texts.append(f"For {duration(paused)}, no trial ran at all: the sweep was stopped or paused.")
    if len(lanes) < len(found.lanes):
        nodes = {lane.node for lane in lanes}
        texts.append(
            f"{MAX_LANES} of {len(found.lanes):,} rows are drawn: the first slots of {_counted(len(nodes), 'node')}."
        )
    figure = plots.timeline(found, lanes, [_slot(lane) for lane in lanes], (found.end - found.start) / MAX_BARS)
    alt = f"Bars of {sum(len(lane.spans) for lane in lanes)} attempts in {len(lanes)} rows; {duration(idle)} idle."
    rows = [
        (_slot(lane), str(len(lane.spans)), duration(lane.busy), duration(lane.idle), str(len(lane.gaps)))
        for lane in found.lanes
    ]
    head = ("node and slot", "attempts", "busy", "idle", "idle times")
    height = 130 + 26 * len(lanes)
    return Section(
        name, title, (" ".join(texts),), (Figure.of(name, figure, alt, height=height),), table=Table.of(head, rows)
    )


def _slot(lane: Lane) -> str:
    return f"{plain(lane.node)} · {lane.slot}"


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def failures(material: Material) -> Section:
    """Return the section with the failed attempts by class."""
    name, title = "failures", "Failures by class"
    classes = failures_of(material.rows, material.attempts)
    if not classes:
        return Section(name, title, missing="No attempt has failed.")
    total, lost = sum(each.attempts for each in classes), sum(len(each.lost) for each in classes)
    text = f"{_counted(total, 'attempt')} failed, and {_counted(lost, 'trial')} with them."
    if lost:
        text += f" `sweeper retry {material.study.name}` runs failed trials again."
    rows = [
        (
            each.kind,
            MEANINGS.get(each.kind, ""),
            str(each.attempts),
            format_list([str(number) for number in each.trials]),
            plain(each.reason),
        )
        for each in classes
    ]
    return Section(
        name,
        title,
        (text,),
        (
            Figure.of(
                name,
                plots.failures(classes),
                f"Bars of {len(classes)} classes; the most frequent is {classes[0].kind} with {classes[0].attempts}.",
                height=130 + 36 * len(classes),
            ),
        ),
        table=Table.of(("class", "meaning", "attempts", "trials", "most frequent reason"), rows),
        table_title="Classes, trials and reasons",
    )
