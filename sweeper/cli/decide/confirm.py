"""The verb that trains the best trials of a sweep again with fresh seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeper.cli import options
from sweeper.cli.run import resume_stored
from sweeper.cli.trials import AskedTrials

if TYPE_CHECKING:
    from sweeper.study.view import StudyView

_Top = Annotated[
    int | None, typer.Option("--top", metavar="N", min=1, max=100, help="Trials to train again. Default: the best 3.")
]
_Seeds = Annotated[
    int | None, typer.Option("--seeds", metavar="N", min=2, max=1000, help="Fresh seeds for each. Default: 5.")
]


def confirm(
    name: options.Name,
    top: _Top = None,
    seeds: _Seeds = None,
    parallel: options.Parallel = None,
    timeout: options.Timeout = None,
    storage: options.SweepStorage = None,
    tracking_uri: options.TrackingUri = None,
    address: options.Address = None,
    insecure: options.Insecure = False,
    allow_code_change: options.AllowCodeChange = False,
    json: options.Json = False,
) -> int:
    """Train the best trials of a sweep that has ended again with fresh seeds; the best mean is the champion."""

    def wanted(study: StudyView) -> str:
        from sweeper.run.confirm import check_confirmable
        from sweeper.spec import Confirm

        check_confirmable(study)
        asked = study.sweep.confirm or Confirm()
        return f"{{top: {asked.top if top is None else top}, seeds: {asked.seeds if seeds is None else seeds}}}"

    flags = {"parallel": parallel, "timeout": timeout}
    where: dict[str, Any] = {"address": address, "insecure": insecure, "allow_code_change": allow_code_change}
    where |= {"retry": None, "tracking_uri": tracking_uri, "confirm": wanted}
    return resume_stored(name, storage, AskedTrials.of(None, None), flags, json=json, **where)
