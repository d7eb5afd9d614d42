"""Figures of results against parameters. Optuna draws them; here they get the colours and the axes of the report."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import unescape
from typing import TYPE_CHECKING, Any

from sweeper.analysis.report.optuna_study import label, quiet

if TYPE_CHECKING:
    import optuna
    import plotly.graph_objects as go

    from sweeper.analysis.report.values import Importance
    from sweeper.core.trials import TrialRecord
    from sweeper.spec import Objective

SCALE = ((0.0, "#8894a6"), (0.5, "#3f8fd2"), (1.0, "#f08c00"))
"""Colours from bad to good, or from early to late. Each can be seen on white and on black."""

MIN_LOG_RATIO, MAX_FINE_RATIO = 20, 150
"""Largest value of a goal over its smallest, from which its axis is logarithmic, and up to which that also names twice
and five times a power of ten: more texts have no room on a phone."""

_BETTER = {"maximize": "more is better", "minimize": "less is better"}

ACCENT, BLUE, GREY = "#f08c00", "#3f8fd2", "#8894a6"


def history(study: optuna.Study, pruned: Sequence[tuple[int, float]], metric: str) -> go.Figure:
    """Draw the value of each trial, and the best value up to it.

    Args:
        pruned: numbers of the pruned trials, and their last values.
    """
    import plotly.graph_objects as go
    from optuna.visualization import plot_optimization_history

    with quiet():
        figure = plot_optimization_history(study, target_name=metric)
    values, *best = figure.data
    values.update(name="complete", marker={"color": BLUE, "size": 7, "opacity": 0.8})
    for line in best:
        line.update(name="best so far", line={"color": ACCENT, "width": 2, "shape": "hv"}, mode="lines")
    if pruned:
        numbers, last = zip(*pruned, strict=True)
        style = {"color": GREY, "size": 5, "symbol": "circle-open", "opacity": 0.8}
        figure.add_trace(go.Scatter(x=numbers, y=last, mode="markers", name="pruned, last value", marker=style))
    figure.update_xaxes(title="trial", dtick=1 if len(study.trials) <= 12 else None)
    return figure


def parallel(study: optuna.Study, metric: str) -> go.Figure:
    """Draw one line for each trial through its parameters to its value, which is the last axis. The best is on top."""
    from optuna.visualization import plot_parallel_coordinate
    from plotly.colors import sample_colorscale

    with quiet():
        figure = plot_parallel_coordinate(study, target_name=metric)
    axes = len(figure.layout.xaxis.ticktext)
    is_minimized = study.direction.name == "MINIMIZE"
    lines = [trace for trace in figure.data if len(trace.x) == axes and trace.mode == "lines"]
    others = [trace for trace in figure.data if not any(trace is line for line in lines)]
    opacity = 0.7 if len(lines) <= 50 else 0.4
    ratios = {id(line): 1 - line.y[0] if is_minimized else line.y[0] for line in lines}
    for line in lines:
        colour = sample_colorscale([list(stop) for stop in SCALE], [min(1.0, max(0.0, ratios[id(line)]))])[0]
        line.update(
            y=_rotated(line.y),
            customdata=_rotated(line.customdata),
            line={"color": colour, "width": 1.5},
            opacity=opacity,
        )
    figure.data = sorted(lines, key=lambda line: ratios[id(line)]) + others
    figure.layout.xaxis.ticktext = _rotated(figure.layout.xaxis.ticktext)
    # The texts at the ticks are left of their axis, those of the first one outside of the plot.
    longest = max((len(unescape(mark.text)) for mark in figure.layout.annotations if mark.x == 1), default=0)
    figure.update_layout(margin={"l": 24 + 6 * longest}, meta={"least": 55 * axes + 160})
    for annotation in figure.layout.annotations:
        if annotation.xref in (None, "x"):
            annotation.update(x=(annotation.x - 1) % axes, font={"color": None})
    for trace in others:
        if trace.marker.showscale:
            trace.marker.update(colorscale=SCALE, reversescale=is_minimized)
    return figure


def _rotated(values: Any) -> list[Any]:
    """Return the values with the first one, the objective's, as the last."""
    first, *others = values
    return [*others, first]


def importance(found: Importance, study: optuna.Study) -> go.Figure:
    """Draw the importance of parameters as bars."""
    import optuna
    from optuna.visualization import plot_param_importances

    class Known(optuna.importance.BaseImportanceEvaluator):
        def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
            return dict(found.shares)

    # Optuna copies all trials for each parameter, to name its distribution: it gets one trial for each.
    few, named = optuna.create_study(), set[str]()
    for trial in study.get_trials(deepcopy=False):
        if trial.params.keys() - named:
            few.add_trial(trial)
            named |= trial.params.keys()
    with quiet():
        figure = plot_param_importances(few, evaluator=Known())
    figure.update_traces(marker={"color": BLUE, "line": {"width": 0}})
    figure.update_layout(xaxis={"title": "share", "range": [0, 1.08]}, yaxis={"title": None})
    return figure


def slice_of(study: optuna.Study, param: str, metric: str) -> go.Figure:
    """Draw the values of all trials against one parameter; later trials are brighter."""
    from optuna.visualization import plot_slice

    with quiet():
        figure = plot_slice(study, params=[param], target_name=metric)
    figure.update_traces(marker={"colorscale": SCALE, "showscale": False, "size": 7, "line": {"width": 0}})
    return figure


def contour(study: optuna.Study, params: list[str], metric: str) -> go.Figure:
    """Draw the value over two parameters."""
    from optuna.visualization import plot_contour

    with quiet():
        figure = plot_contour(study, params=params, target_name=metric)
    for trace in figure.data:
        if trace.type == "contour":
            trace.update(colorscale=SCALE, reversescale=study.direction.name == "MINIMIZE")
        else:
            trace.update(name="trial", marker={"color": "#ffffff", "size": 7, "line": {"color": "#222222", "width": 1}})
    return figure


def front(
    rows: Sequence[TrialRecord], numbers: Collection[int], goal: Objective, other: Objective, *, is_whole: bool
) -> go.Figure:
    """Draw the value of each trial by its value of another goal, those on the front in the accent.

    Args:
        rows: trials that have reported both.
        numbers: the trials on the front.
        goal, other: the goals, the objective first.
        is_whole: whether there are no more goals, so that the front is a line here.
    """
    import plotly.graph_objects as go

    xaxis, yaxis = ({"title": f"{label(one.metric)} ({_BETTER[one.direction]})"} for one in (other, goal))
    figure = go.Figure(layout={"xaxis": xaxis, "yaxis": yaxis})
    points = {row.number: next(each.value for each in row.others if each.metric == other.metric) for row in rows}
    on_front = sorted((row for row in rows if row.number in numbers), key=lambda row: points[row.number])
    step = "hv" if other.direction == "minimize" else "vh"
    bettered = [row for row in rows if row.state == "COMPLETE" and row.number not in numbers]
    kinds = (
        ("pruned, last value", [row for row in rows if row.state == "PRUNED"], GREY, "circle-open", 5),
        ("complete, but bettered", bettered, BLUE, "circle", 7),
        ("on the front", on_front, ACCENT, "circle", 9),
    )
    for name, shown, colour, symbol, size in kinds:
        if shown:
            style = {"color": colour, "size": size, "symbol": symbol}
            line = {"color": ACCENT, "width": 2, "shape": step}
            has_line = shown is on_front and is_whole
            trace = go.Scatter(
                x=[points[row.number] for row in shown],
                y=[row.value for row in shown],
                customdata=[row.number for row in shown],
                mode="lines+markers" if has_line else "markers",
                name=name,
                marker=style,
                line=line if has_line else None,
                hovertemplate="trial %{customdata}: %{y:.5g}, %{x:,.7~g}<extra></extra>",
            )
            figure.add_trace(trace)
    least, most = min(points.values()), max(points.values())
    figure.update_xaxes(tickformat="~s" if least >= 1 else "~g")  # 20k; a small value would be 5m
    if least > 0 and most > MIN_LOG_RATIO * least:
        figure.update_xaxes(type="log", dtick="D2" if most <= MAX_FINE_RATIO * least else 1)
    return figure
