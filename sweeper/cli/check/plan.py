"""The verb that plans a sweep before anything is spent: what it tries first, how far trials come, what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeper.analysis.trials import unit, varying
from sweeper.cli import options, report
from sweeper.core.errors import SweeperError
from sweeper.core.text import clean, duration, format_list, number, scalar, shorten, span

if TYPE_CHECKING:
    from sweeper.analysis.forecast.forecast import Range
    from sweeper.run.plan import Plan
    from sweeper.spec import Sweep

_Measure = Annotated[
    float | None,
    typer.Option(
        "--measure",
        metavar="SECONDS",
        min=0,
        max=3600,
        help="Measure for so long; 0: not at all. Default: 20, or earlier sweeps of the same.",
    ),
]
ShowPlan = Annotated[bool, typer.Option("--plan", metavar="", help="Print how long it will take before it starts.")]


def plan(
    space: options.File,
    settings: options.Settings = None,
    trials: options.Trials = None,
    epochs: options.Epochs = None,
    parallel: options.Parallel = None,
    timeout: options.Timeout = None,
    cpus: options.Cpus = None,
    gpus: options.Gpus = None,
    seed: options.Seed = None,
    storage: options.SweepStorage = None,
    measure: _Measure = None,
    json: options.Json = False,
) -> None:
    """Tell what a sweep will try first, and its time, hours, disk and money. Runs nothing but a short measurement."""
    from sweeper.cli.trials import refuse_added

    refuse_added(trials, settings)
    flags = options.by_key(trials=trials, epochs=epochs, parallel=parallel, timeout=timeout, cpus=cpus, gpus=gpus)
    flags |= options.by_key(seed=seed, storage=options.sweep_storage(storage))
    sweep = options.load_with_flags(space, settings, flags)
    from sweeper.cli import console
    from sweeper.run.plan import make_plan

    made = make_plan(sweep, measure_s=measure)
    for note in made.notes:
        console.print_note(note)
    if json:
        report.emit(report.to_json(document(made)))
    else:
        _print(made)


def note_plan(sweep: Sweep, address: str | None = None) -> None:
    """Print the likely time of a sweep before it starts; or why that is not known, which changes nothing."""
    from sweeper.cli import console
    from sweeper.driver.connection.auth import cluster_address

    if cluster_address(address) is not None:
        console.print_note("no plan: it would be one for this machine, and the sweep runs on a cluster")
        return
    from sweeper.run.plan import QUICK_MEASURE_S, make_plan

    try:
        made = make_plan(sweep, default_measure_s=QUICK_MEASURE_S)
    except SweeperError as error:
        console.print_note(f"no plan: {error}")
        return
    console.print_note(f"plan: {likely_line(made)}")


def likely_line(plan: Plan) -> str:
    """Say in a line what a sweep will likely take, and where that comes from."""
    found, budget = plan.forecast, plan.sweep.budget
    full = plan.sweep.trial_limit * budget.epoch_of(budget.reports)
    parts = [f"about {number(found.epochs.likely, 3)} of {full:g} {unit(budget)}"]
    if found.seconds is not None and found.cpu_hours is not None:
        between = span(found.seconds.low, found.seconds.high)
        parts = [f"likely {duration(round(found.seconds.likely))} ({between})", *parts]
        parts.append(f"{found.cpu_hours.likely:.2g} CPU-hours")
    return f"{', '.join(parts)}; {_source(plan)}"


def document(plan: Plan) -> dict[str, Any]:
    """Build the document of `plan --json`."""
    budget = plan.sweep.budget
    return {
        "name": plan.sweep.name,
        "trials": plan.sweep.trial_limit,
        "unit": unit(budget),
        "machine": plan.machine.name,
        "trials_at_a_time": plan.machine.workers,
        "space": {"points": plan.points, "continuous": plan.continuous},
        "proposals": [{"trial": row.number, "origin": row.origin, "params": row.params} for row in plan.proposals],
        "source": asdict(plan.source),
        **asdict(plan.forecast),
        "ended_by": dict(plan.forecast.ended_by),
        "currency": None if budget.cost is None else budget.cost.currency,
        "notes": plan.notes,
    }


def _print(plan: Plan) -> None:
    from rich.text import Text

    from sweeper.cli import console

    console.out.print(Text(report.sweep_line(plan.sweep), "bold"), soft_wrap=True)
    console.out.print()
    columns, *rows = _proposals(plan)
    fitting = console.columns_that_fit(columns, rows, console.out.width)
    proposals = console.table(columns[:fitting])
    for row in rows:
        proposals.add_row(*(Text(shorten(cell)) for cell in row[:fitting]))
    console.print_table(proposals)
    if hidden := columns[fitting:]:
        console.out.print(Text(f"too narrow for {', '.join(hidden)}: --json", "dim"), soft_wrap=True)
    console.out.print()
    figures = console.table(("", "low", "likely", "high", ""))
    for label, found, form, remark in _figures(plan):
        figures.add_row(label, *map(form, (found.low, found.likely, found.high)), Text(remark, "dim"))
    console.print_table(figures)
    console.out.print()
    console.print_facts([(name, clean(text)) for name, text in _facts(plan)])


def _proposals(plan: Plan) -> list[tuple[str, ...]]:
    """Return the table of the first proposals, its head first."""
    names = [name for name in varying(plan.sweep) if any(name in row.params for row in plan.proposals)]
    table = [("trial", "origin", *names)]
    for row in plan.proposals:
        values = (scalar(row.params[name]) if name in row.params else "" for name in names)
        table.append((str(row.number), row.origin or "", *values))
    return [tuple(map(clean, row)) for row in table]


_Figure = tuple[str, "Range", Callable[[float], str], str]
"""Label, figures, how one is written, and a remark."""


def _figures(plan: Plan) -> Iterator[_Figure]:
    found, budget, trials = plan.forecast, plan.sweep.budget, plan.sweep.trial_limit
    limit = "" if budget.timeout is None else f"timeout {duration(budget.timeout)}"
    price = "" if budget.cost is None else budget.cost.currency
    amounts: list[tuple[str, Range | None, Callable[[float], str], str]] = [
        ("time", found.seconds, lambda seconds: duration(round(seconds)), limit),
        ("CPU-hours", found.cpu_hours, _short, ""),
        ("GPU-hours", found.gpu_hours, _short, ""),
        ("cost", found.cost, _short, price),
        ("checkpoints", found.checkpoint_bytes, lambda size: f"{size / 1e6:.1f}", "MB at a time"),
        (unit(budget), found.epochs, _short, f"of {trials * budget.epoch_of(budget.reports):g}"),
    ]
    yield from ((label, known, form, remark) for label, known, form, remark in amounts if known is not None)
    step = unit(budget).removesuffix("s")
    for rung in found.rungs:
        yield f"to {step} {rung.epoch:g}", rung.trials, lambda count: f"{count:.0f}", f"of {trials} trials"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.01 else f"{value:.1g}"


def _facts(plan: Plan) -> Iterator[tuple[str, str]]:
    if plan.points is not None:
        yield "space", f"{plan.points:,} {'point' if plan.points == 1 else 'points'}"
    else:
        endless = f"continuous: {format_list(plan.continuous)}" if plan.continuous else "too many points to count"
        yield "space", f"{len(varying(plan.sweep))} parameters; {endless}"
    at_a_time = "1 trial" if plan.machine.workers == 1 else f"{plan.machine.workers} trials"
    yield "machine", f"this one, {at_a_time} at a time ({plan.machine.name})"
    yield "from", _source(plan)
    for key, share in plan.forecast.ended_by:
        yield "limit", f"{key} ends the sweep before its last trial in {share:.0%} of {plan.forecast.plays} plays"


def _source(plan: Plan) -> str:
    source, pruned = plan.source, "" if plan.sweep.chosen_pruner.type == "none" else ", synthetic learning curves"
    if not source.trials:
        return "the rules of sampler and pruner alone, as nothing was measured" + pruned
    within = f"pace of a trial within {source.error or 0.0:.0%}"
    if source.sweeps:
        return f"{source.trials} trials of {format_list(list(source.sweeps))} in the storage; {within}"
    return f"{source.trials} trials begun in {source.seconds:g} s; {within}{pruned}"
