"""Sections about parameters: parallel coordinates, importance, slices, the contour of the two most important."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeper.analysis.report import figures
from sweeper.analysis.report.material import Material, origin, plain
from sweeper.analysis.report.optuna_study import distinct_params
from sweeper.analysis.report.parts import Figure, Section, Table
from sweeper.analysis.report.values import MIN_TRIALS_OF_IMPORTANCE, thinned
from sweeper.analysis.trials import describe_objective, goal_cells, varying
from sweeper.core.text import metric, number, scalar
from sweeper.core.trials import leaderboard

if TYPE_CHECKING:
    from sweeper.core.trials import TrialRecord

MAX_LINES, MAX_POINTS, MAX_CONTOUR_POINTS = 200, 400, 60
"""Trials in the parallel coordinates, in each slice, and in the contour.

More of them cannot be told apart, and take seconds to draw. Optuna's contour has a cell for each pair of values.
"""

MAX_FRONT_POINTS = 1000
"""Trials beside the front that are drawn with it."""

MAX_SLICES = 12
"""Parameters that have a slice each, the most important ones."""


def front(material: Material) -> Section | None:
    """Return the section with the trials on the front of several goals; None for a single goal."""
    sweep, name, title = material.sweep, "front", "The front"
    if len(sweep.goals) == 1:
        return None
    if missing := material.missing_results():
        return Section(name, title, missing=missing)
    found = material.study.leaderboard(front=True)
    numbers = {row.number for row in found}
    known = [row for row in material.study.rows() if row.state in ("COMPLETE", "PRUNED") and row.value is not None]
    shown = [row for row in known if row.number in numbers]
    shown += thinned([row for row in known if row.number not in numbers], MAX_FRONT_POINTS, sweep.objective.direction)
    drawn = list[Figure]()
    for goal in sweep.goals[1:]:
        rows = [row for row in shown if any(other.metric == goal.metric for other in row.others)]
        figure = figures.front(rows, numbers, sweep.objective, goal, is_whole=len(sweep.goals) == 2)
        alt = f"{material.objective} of each trial by its {plain(goal.metric)}. {len(found)} trials are on the front."
        drawn.append(Figure.of(f"{name}-{len(drawn)}", figure, alt))
    names, more = varying(sweep), f"`sweeper best {material.study.name} --front` has all of them."

    def cells(row: TrialRecord) -> tuple[str, ...]:
        return (str(row.number), *goal_cells(row, sweep), *(_value(row, name) for name in names))

    head = ("trial", *(plain(goal.metric) for goal in sweep.goals), *map(plain, names))
    text = (
        f"The sweep is to {plain(describe_objective(sweep))}. {len(found)} of {len(material.results):,} COMPLETE "
        "trials are on the front: no other trial equals or betters one of them in every goal. Elsewhere in this report "
        f"the best trial is the best by {material.objective} alone."
    )
    return Section(name, title, (text,), tuple(drawn), table=Table.of(head, found, more, make=cells))


def parallel_coordinates(material: Material) -> Section:
    """Return the section with one line for each trial through its parameters to the objective."""
    name, title = "parallel", "Parallel coordinates"
    if missing := material.missing_results(2) or _missing_params(material):
        return Section(name, title, missing=missing)
    study = material.thinned_study(MAX_LINES)
    good = "highest" if material.sweep.objective.direction == "maximize" else "lowest"
    text = (
        f"Each line is a COMPLETE trial. The last axis is {material.objective}; orange lines end at its {good} values."
    )
    width = len(varying(material.sweep))
    alt = f"Lines of trials through {width} parameters to {material.objective}. {material.best_sentence}"
    return Section(
        name,
        title,
        (text + _thinned_note(material, MAX_LINES),),
        (Figure.of(name, figures.parallel(study, material.drawn_objective), alt, height=460),),
        table=_trials_table(material),
        table_title="COMPLETE trials and their parameters, best first",
    )


def _thinned_note(material: Material, most: int) -> str:
    if len(material.results) <= most:
        return ""
    return (
        f" {most} of {len(material.results):,} COMPLETE trials are drawn: the best {most // 2}, and others at even "
        "distances."
    )


def _trials_table(material: Material) -> Table:
    names = varying(material.sweep)
    ranked = leaderboard(material.results, material.sweep.objective.direction)
    more = f"`sweeper show {material.study.name} --csv` has all trials."

    def cells(row: TrialRecord) -> tuple[str, ...]:
        return (str(row.number), metric(row.value), *(_value(row, name) for name in names), origin(row))

    return Table.of(("trial", material.objective, *map(plain, names), "proposed by"), ranked, more, make=cells)


def _value(row: TrialRecord, name: str) -> str:
    return plain(scalar(row.params[name])) if name in row.params else ""


def _missing_params(material: Material, needed: int = 1) -> str:
    """Return why parameters cannot be compared; "" if enough of them differ between trials."""
    names = distinct_params(material.optuna_study)
    if len(names) >= needed:
        return ""
    if needed == 1:
        return "All COMPLETE trials have the same parameters, so there is nothing to compare."
    return f"This needs {needed} parameters that differ between COMPLETE trials, and there is only {len(names)}."


def importance(material: Material) -> Section:
    """Return the section with the importance of the parameters."""
    name, title, found = "importance", "Importance of the parameters", material.importance
    if missing := material.missing_results(2) or _missing_params(material):
        return Section(name, title, missing=missing)
    if not found.shares:
        return Section(name, title, missing=f"All COMPLETE trials have the same {material.objective}.")
    text = (
        f"How much of the differences in {material.objective} each parameter explains (PED-ANOVA, by Optuna). It "
        f"rests on {found.trials:,} COMPLETE trials."
    )
    if partial := [name for name in distinct_params(material.optuna_study) if name not in found.names]:
        text += f" Parameters that only some trials have are left out: {plain(', '.join(partial))}."
    warning = (
        f"{found.trials} trials are few: below {MIN_TRIALS_OF_IMPORTANCE}, the order may be chance."
        if found.is_weak
        else ""
    )
    first, share = found.shares[0]
    return Section(
        name,
        title,
        (text,),
        (
            Figure.of(
                name,
                figures.importance(material.importance, material.optuna_study),
                f"Bars of {len(found.shares)} parameters; the longest is {first} with {share:.0%}.",
                height=90 + 34 * len(found.shares),
            ),
        ),
        table=Table.of(("parameter", "share"), [(plain(each), f"{part:.1%}") for each, part in found.shares]),
        warning=warning,
    )


def slices(material: Material) -> Section:
    """Return the section with the objective against each parameter."""
    name, title = "slices", "Slices"
    if missing := material.missing_results(2) or _missing_params(material):
        return Section(name, title, missing=missing)
    study = material.thinned_study(MAX_POINTS)
    params = _most_important(material, distinct_params(study))
    text = f"{material.objective} of the COMPLETE trials against each parameter; the later a trial, the more orange."
    if len(params) > MAX_SLICES:
        text += f" The {MAX_SLICES} most important of {len(params)} parameters are drawn."
    shown = params[:MAX_SLICES]
    axis, note = material.range_of(
        [trial.value for trial in study.get_trials(deepcopy=False) if trial.value is not None]
    )
    return Section(
        name,
        title,
        (text + _thinned_note(material, MAX_POINTS) + note.replace("the figure", "a figure"),),
        tuple(
            Figure.of(
                f"slice-{place}",
                figures.slice_of(study, param, material.drawn_objective),
                f"{material.objective} of COMPLETE trials against {param}.",
                height=300,
                is_narrow=True,
                shown=axis,
            )
            for place, param in enumerate(shown)
        ),
        table=_best_values(material, shown),
        table_title="The figures as a table: values of the best trials",
    )


def _most_important(material: Material, params: Sequence[str]) -> list[str]:
    ranked = [name for name in material.importance.names if name in params]
    return ranked + [name for name in params if name not in ranked]


def _best_values(material: Material, params: Sequence[str]) -> Table:
    """Return what the best tenth of the trials has of each parameter, and what all trials have."""
    ranked = leaderboard(material.results, material.sweep.objective.direction)
    best = ranked[: max(1, len(ranked) // 10)]
    rows = [(plain(name), _range(best, name), _range(ranked, name)) for name in params]
    return Table.of(("parameter", f"the best {len(best)}", f"all {len(ranked):,}"), rows)


def _range(rows: Sequence[TrialRecord], name: str) -> str:
    """Describe the values that trials have of a parameter: 32 to 256, or the different ones."""
    values = [row.params[name] for row in rows if name in row.params]
    if values and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        low, high = min(values), max(values)
        return number(low) if low == high else f"{number(low)} to {number(high)}"
    return ", ".join(plain(text) for text in dict.fromkeys(map(scalar, values)))


def contour(material: Material) -> Section:
    """Return the section with the objective over the two most important parameters."""
    name, title = "contour", "The two most important parameters"
    if missing := material.missing_results(3) or _missing_params(material, 2):
        return Section(name, title, missing=missing)
    study = material.thinned_study(MAX_CONTOUR_POINTS)
    together = [trial for trial in study.get_trials(deepcopy=False) if trial.params]
    ranked = _most_important(material, distinct_params(study))
    pairs = ((one, other) for place, one in enumerate(ranked) for other in ranked[place + 1 :])
    for one, other in pairs:
        both = [trial.params for trial in together if one in trial.params and other in trial.params]
        if len({str(params[one]) for params in both}) > 1 and len({str(params[other]) for params in both}) > 1:
            break
    else:
        return Section(name, title, missing="No two parameters that differ were used together by enough trials.")
    text = f"{material.objective} over {one} and {other}; between the trials (points) it is interpolated."
    return Section(
        name,
        title,
        (text + _thinned_note(material, MAX_CONTOUR_POINTS),),
        (
            Figure.of(
                name,
                figures.contour(study, [one, other], material.drawn_objective),
                f"{material.objective} as colours over {one} and {other}. {material.best_sentence}",
                height=480,
            ),
        ),
        table=_pairs_table(material, one, other),
        table_title="The points as a table, best first",
    )


def _pairs_table(material: Material, one: str, other: str) -> Table:
    ranked = leaderboard(material.results, material.sweep.objective.direction)

    def cells(row: TrialRecord) -> tuple[str, ...]:
        return str(row.number), _value(row, one), _value(row, other), metric(row.value)

    more = "The table of all trials is above."
    return Table.of(("trial", one, other, material.objective), ranked, more, make=cells)
