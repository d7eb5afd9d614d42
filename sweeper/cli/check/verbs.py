"""The verbs that check: sweep files, and what sweeper finds on this machine or a cluster.

Heavy imports, rich included, are inside the verbs, so that `sweeper validate` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from sweeper.cli import options, report
from sweeper.core.errors import InputError, SpecError
from sweeper.core.text import clean

if TYPE_CHECKING:
    from sweeper.cli.check.doctor import Check


def validate(files: options.Files, json: options.Json = False) -> None:
    """Check sweep files: print a summary of each, or all its mistakes."""
    from sweeper.spec import load_sweep

    verdicts: list[dict[str, Any]] = []
    errors: list[str] = []
    for file in files:
        verdict: dict[str, Any] = {"file": str(file), "ok": True, "summary": None, "warnings": [], "problems": []}
        verdicts.append(verdict)
        try:
            sweep = load_sweep(file)
        except SpecError as error:
            verdict |= {"ok": False, "problems": [asdict(problem) for problem in error.problems]}
            errors.append(str(error))
            continue
        verdict |= {"summary": report.sweep_line(sweep), "warnings": sweep.warnings()}
        if not json:
            report.emit(f"{file}  {verdict['summary']}")
            for warning in verdict["warnings"]:
                from sweeper.cli import console

                console.print_note(f"{file}  {warning}")
    if json:
        report.emit(report.to_json(verdicts))
    if errors:
        raise InputError("\n".join(errors))


def schema() -> None:
    """Print the JSON Schema of sweep files, for editors."""
    from sweeper.spec import sweep_schema

    report.emit(report.to_json(sweep_schema()))


def convert(space: options.File, output: options.Output = None) -> None:
    """Convert a sweep file of W&B."""
    from sweeper.core.files import written_whole
    from sweeper.spec import Sweep
    from sweeper.spec.convert import convert_file
    from sweeper.spec.yaml_file import parse_value

    text = convert_file(space)
    try:
        Sweep.from_mapping(parse_value(text))
    except SpecError as error:
        raise SpecError(f"{space}, as a sweep file,", error.problems) from error
    if output is None:
        report.emit(text)
    elif output.exists():
        raise InputError(f"{output} exists already. Remove it, or write to another file with --output")
    else:
        with written_whole(output) as beside:
            beside.write_text(text)


def doctor(
    storage: options.Storage = options.DEFAULT_STORAGE,
    tracking_uri: options.TrackingUri = None,
    address: options.ClusterAddress = None,
    dashboard: options.Dashboard = None,
    folder: options.SharedFolder = None,
    insecure: options.Insecure = False,
    json: options.Json = False,
) -> int:
    """Check versions, data, devices, disks and stores."""
    from sweeper.cli.check.cluster import check_dashboard, check_nodes
    from sweeper.cli.check.doctor import examine

    clusters: dict[str, Callable[[], Iterator[Check]]] = {}
    if dashboard is not None:
        clusters["dashboard"] = partial(check_dashboard, dashboard, insecure=insecure)
    if address is not None:
        clusters["cluster"] = partial(check_nodes, address, folder, insecure=insecure)
    checks = []
    for check in examine(storage, tracking_uri, clusters=clusters):
        checks.append(check)
        if not json:
            _print_check(check)
    if json:
        report.emit(report.to_json([asdict(check) for check in checks]))
    return int(any(check.state == "fail" for check in checks))


def _print_check(check: Check) -> None:
    """Print one finding and its advice."""
    from rich.text import Text

    from sweeper.cli.console import out

    style = {"ok": "green", "warn": "yellow", "fail": "bold red"}[check.state]
    out.print(Text.assemble((f"{check.state:<5}", style), f"{check.name:<13} ", clean(check.found)), soft_wrap=True)
    if check.advice:
        out.print(Text(f"{'':<19}{clean(check.advice)}", "dim"), soft_wrap=True)
