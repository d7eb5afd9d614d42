"""Figures that Optuna does not have: curves by state, survival, the timeline, failures, the confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sweeper.analysis.report.figures import ACCENT, BLUE
from sweeper.analysis.report.optuna_study import label
from sweeper.analysis.report.timeline import bars_of
from sweeper.core.text import duration

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from sweeper.analysis.curves import Curve
    from sweeper.analysis.report.timeline import Bar, Lane, Timeline
    from sweeper.analysis.report.values import FailureClass, Rung
    from sweeper.core.predictions import Predictions

COLOURS = {
    "COMPLETE": BLUE,
    "PAUSED": "#5b7fa6",
    "PRUNED": "#9a8fb0",
    "FAIL": "#e0524d",
    "RUNNING": "#2f9e60",
    "INTERRUPTED": "#b08900",
}
"""Colour of each state, in the order of the legend."""

IDLE, HATCH = "rgba(136, 148, 166, 0.25)", "rgba(136, 148, 166, 0.9)"
"""Colours of the time in which nothing ran, and of the lines over it."""

MATRIX_SCALE = ((0.0, "#eef3f8"), (1.0, "#1c5fa8"))
"""Colours of the confusion matrix; the numbers in it are black or white, whichever can be read."""

MAX_NODE_CHARS = 100
"""Characters of a node and its place: a host's name is long, and its end tells it from others."""

MAX_NUMBERED_CLASSES = 20
"""Classes up to which the cells of a confusion matrix show their numbers."""


def learning_curves(
    curves: Sequence[Curve], best: int | None, *, unit: str, metric: str, origins: Mapping[int, str]
) -> go.Figure:
    """Draw the curves of trials in the colours of their states, and that of the best one over them.

    Args:
        origins: where the parameters of each trial came from.
    """
    import plotly.graph_objects as go

    figure = go.Figure(layout={"xaxis": {"title": unit}, "yaxis": {"title": metric}, "hovermode": "closest"})
    for state, colour in COLOURS.items():
        chosen = [curve for curve in curves if curve.state == state and curve.number != best and curve.epochs]
        if chosen:
            is_single = all(len(curve.epochs) == 1 for curve in chosen)
            figure.add_trace(
                _curves(chosen, unit, origins).update(
                    name=f"{state.lower()} ({len(chosen)})",
                    line={"color": colour, "width": 1.2},
                    marker={"color": colour, "size": 4},
                    opacity=0.65,
                    mode="markers" if is_single else "lines+markers",
                )
            )
    for curve in curves:
        if curve.number == best and curve.epochs:
            line = {"color": ACCENT, "width": 3}
            figure.add_trace(
                _curves([curve], unit, origins).update(
                    name=f"trial {best}, the best", line=line, marker={"color": ACCENT}
                )
            )
    return figure


def _curves(curves: Sequence[Curve], unit: str, origins: Mapping[int, str]) -> go.Scatter:
    """Return curves as one line with gaps, which draws much faster than one line each."""
    import plotly.graph_objects as go

    x: list[float | None] = []
    y: list[float | None] = []
    names: list[str] = []
    for curve in curves:
        x += [*curve.epochs, None]
        y += [*curve.values, None]
        names += [f"{curve.number} ({origins[curve.number]})"] * (len(curve.epochs) + 1)
    hover = f"trial %{{customdata}}<br>{unit.removesuffix('s')} %{{x}}: %{{y:.5g}}<extra></extra>"
    return go.Scatter(x=x, y=y, customdata=names, mode="lines+markers", hovertemplate=hover)


def survival(rungs: Sequence[Rung], *, unit: str) -> go.Figure:
    """Draw how many trials made each report of the rungs, and what became of them there."""
    import plotly.graph_objects as go

    parts = {
        "went on": ([rung.went_on for rung in rungs], BLUE),
        "complete": ([rung.complete for rung in rungs], ACCENT),
        "pruned here": ([rung.pruned for rung in rungs], COLOURS["PRUNED"]),
        "failed here": ([rung.failed for rung in rungs], COLOURS["FAIL"]),
        "unfinished": ([rung.stopped for rung in rungs], COLOURS["INTERRUPTED"]),
    }
    places = [f"{rung.position:g}" for rung in rungs]
    figure = go.Figure(
        layout={"barmode": "stack", "xaxis": {"title": unit, "type": "category"}, "yaxis": {"title": "trials"}}
    )
    for name, (counts, colour) in parts.items():
        if any(counts):
            hover = f"{unit.removesuffix('s')} %{{x}}: %{{y}} {name}<extra></extra>"
            style = {"color": colour, "line": {"width": 0}}
            figure.add_trace(go.Bar(x=places, y=counts, name=name, marker=style, hovertemplate=hover))
    return figure


def timeline(shown: Timeline, lanes: Sequence[Lane], names: Sequence[str], shortest: timedelta) -> go.Figure:
    """Draw what each lane ran, and when it was idle; attempts that are shorter together share a bar."""
    import plotly.graph_objects as go

    figure = go.Figure(layout={"barmode": "overlay", "bargap": 0.25, "xaxis": {"type": "date", "title": "UTC"}})
    names = [label(name, MAX_NODE_CHARS) for name in names]
    named = list(zip(names, lanes, strict=True))
    idle = [(name, *gap) for name, lane in named for gap in lane.gaps]
    if idle:
        texts = [duration((end - start).total_seconds()) for _, start, end in idle]
        hatch = {"shape": "/", "size": 6, "solidity": 0.25, "fgcolor": HATCH}
        pattern = {"color": IDLE, "pattern": hatch, "line": {"width": 0}}
        figure.add_trace(_bars(idle, "idle", pattern, texts, "idle for %{customdata}"))
    bars = [(name, bar) for name, lane in named for bar in bars_of(lane, shortest)]
    for state, colour in COLOURS.items():
        if own := [(name, bar) for name, bar in bars if bar.state == state]:
            texts = [_attempts(bar) for _, bar in own]
            places = [(name, bar.start, bar.end) for name, bar in own]
            style = {"color": colour, "line": {"width": 0.5, "color": "rgba(255, 255, 255, 0.6)"}}
            figure.add_trace(_bars(places, state.lower(), style, texts, "%{customdata}"))
    for start, end in shown.pauses:
        figure.add_vrect(x0=start, x1=end, fillcolor=IDLE, line_width=0, layer="below", annotation_text="no trial ran")
    figure.update_yaxes(type="category", autorange="reversed", categoryorder="array", categoryarray=list(names))
    return figure


def _attempts(bar: Bar) -> str:
    span, *others = bar.spans
    if others:
        return f"{len(bar.spans)} attempts, trials {span.number} to {others[-1].number}"
    return f"trial {span.number}, attempt {span.attempt}: {duration(span.seconds)}"


def _bars(places: Sequence[tuple[str, Any, Any]], name: str, marker: Any, texts: list[str], hover: str) -> go.Bar:
    """Return horizontal bars from a moment to another one."""
    import plotly.graph_objects as go

    return go.Bar(
        orientation="h",
        y=[place for place, _, _ in places],
        base=[start.isoformat(timespec="milliseconds").removesuffix("+00:00") for _, start, _ in places],
        x=[round((end - start).total_seconds() * 1000) for _, start, end in places],
        customdata=texts,
        name=name,
        marker=marker,
        hovertemplate=f"{hover}<extra></extra>",
    )


def failures(classes: Sequence[FailureClass]) -> go.Figure:
    """Draw the number of failed attempts of each class, and how many of them ended their trial."""
    import plotly.graph_objects as go

    kinds = [each.kind for each in classes]
    ended = [len(each.lost) for each in classes]
    retried = [max(0, each.attempts - len(each.lost)) for each in classes]
    figure = go.Figure(layout={"barmode": "stack", "xaxis": {"title": "attempts", "dtick": _whole_ticks(classes)}})
    for name, counts, colour in (
        ("the trial failed", ended, COLOURS["FAIL"]),
        ("the trial was tried again", retried, COLOURS["INTERRUPTED"]),
    ):
        if any(counts):
            hover = f"%{{y}}: %{{x}} attempts, {name}<extra></extra>"
            style = {"color": colour, "line": {"width": 0}}
            figure.add_trace(go.Bar(orientation="h", y=kinds, x=counts, name=name, marker=style, hovertemplate=hover))
    figure.update_yaxes(type="category", autorange="reversed")
    return figure


def _whole_ticks(classes: Sequence[FailureClass]) -> int:
    """Return the distance of ticks for a count, which has no halves."""
    return max(1, max(each.attempts for each in classes) // 5)


def confusion(found: Predictions) -> go.Figure:
    """Draw the confusion matrix: the colour is the share of a class that was predicted as each."""
    import plotly.graph_objects as go

    names = [label(name) for name in found.classes]
    shares = [[count / max(1, sum(row)) for count in row] for row in found.matrix]
    figure = go.Figure(
        go.Heatmap(
            z=shares,
            x=names,
            y=names,
            text=found.matrix,
            texttemplate="%{text}" if len(names) <= MAX_NUMBERED_CLASSES else None,
            colorscale=MATRIX_SCALE,
            zmin=0,
            zmax=1,
            xgap=1,
            ygap=1,
            hovertemplate="class %{y}, predicted %{x}: %{text} samples (%{z:.1%} of the class)<extra></extra>",
            colorbar={"title": {"text": "share of class"}, "tickformat": ".0%"},
        )
    )
    figure.update_xaxes(title="predicted", type="category", showgrid=False)
    figure.update_yaxes(title="class", type="category", autorange="reversed", showgrid=False)
    return figure
