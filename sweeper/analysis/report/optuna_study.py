"""A study as Optuna's figures need it: in memory, with names and values that are safe to draw."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from sweeper.analysis.report.values import Importance
from sweeper.analysis.trials import varying
from sweeper.core.secrets import redact
from sweeper.core.text import clean, shorten
from sweeper.search.history import point_in
from sweeper.search.space import Categorical, suggest

if TYPE_CHECKING:
    from sweeper.core.trials import TrialRecord
    from sweeper.spec import Sweep
    from sweeper.study.view import StudyView

MAX_LABEL_CHARS = 40

_MARKUP = str.maketrans({"<": "&lt;", ">": "&gt;", "&": "&amp;"})
"""Characters that plotly reads as markup, and how it is to show them as they are."""


def label(value: object, length: int = MAX_LABEL_CHARS) -> str:
    """Return a text of the user's for a figure: without secrets, control characters and markup, and not too long."""
    return shorten(clean(redact(value)), length).translate(_MARKUP)


def rebuild(sweep: Sweep, rows: Sequence[TrialRecord], *, has_params: bool = True) -> optuna.Study:
    """Return a study in memory with the trials that `drawable` returned, and the parameters that vary.

    A trial keeps its number, because the study has a waiting trial, which no figure shows, for each number between.

    Args:
        has_params: False for a figure that needs none.
    """
    searched = varying(sweep) if has_params else []
    labelled = {
        name: _labels(domain.choices) for name, domain in sweep.space.items() if isinstance(domain, Categorical)
    }
    trials: list[FrozenTrial] = []
    for row in sorted(rows, key=lambda row: row.number):
        trials += [create_trial(state=TrialState.WAITING) for _ in range(row.number - len(trials))]
        trials.append(_as_optuna_trial(sweep, row, searched, labelled))
    for number, trial in enumerate(trials):
        trial.number = number
    return _RebuiltStudy(trials, sweep.objective.direction)


class _RebuiltStudy(optuna.Study):
    """A study for Optuna's figures with these trials. Optuna's own copies each of them again and again."""

    def __init__(self, trials: list[FrozenTrial], direction: str) -> None:
        storage = optuna.storages.InMemoryStorage()
        storage.create_new_study([optuna.study.StudyDirection[direction.upper()]], "report")
        super().__init__("report", storage)
        self._rebuilt = trials

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        return [trial for trial in self._rebuilt if states is None or trial.state in states]


def drawable(sweep: Sweep, rows: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the trials that figures about results can show: COMPLETE, with a finite value and a point of the space."""
    found = [row for row in rows if row.state == "COMPLETE" and row.value is not None and math.isfinite(row.value)]
    return [row for row in found if point_in(row.params, sweep.space) is not None]


def _as_optuna_trial(
    sweep: Sweep, row: TrialRecord, searched: Collection[str], labelled: Mapping[str, Sequence[Any]]
) -> FrozenTrial:
    """Return a trial for the study in memory.

    Args:
        searched: names of the parameters that it is to have.
        labelled: the choices of categorical parameters, as figures show them.
    """
    if not searched:
        return create_trial(value=row.value)
    drawn = FixedTrial(point_in(row.params, sweep.space) or {})
    suggest(drawn, sweep.space)
    params: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}
    for name, distribution in drawn.distributions.items():
        if name not in searched:
            continue
        params[name], distributions[name] = drawn.params[name], distribution
        if isinstance(distribution, CategoricalDistribution):
            choice = distribution.choices.index(drawn.params[name])
            params[name], distributions[name] = labelled[name][choice], CategoricalDistribution(labelled[name])
    return create_trial(value=row.value, params=params, distributions=distributions)


def _labels(choices: Sequence[Any]) -> list[Any]:
    """Return choices with texts that are safe to draw; those that look alike then get a number."""
    found: list[Any] = []
    for choice in choices:
        shown = label(choice) if isinstance(choice, str) else choice
        found.append(f"{shown} ({len(found)})" if isinstance(choice, str) and shown in found else shown)
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from logging and warning of what a figure lacks or rests on: the report says that itself."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def importance_of(study: optuna.Study) -> Importance:
    """Return the importance of the parameters as Optuna estimates it, from the COMPLETE trials of a rebuilt study."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    names = distinct_params(study)
    if len(trials) < 2 or not names or len({trial.value for trial in trials}) < 2:
        return Importance((), len(trials))
    # Optuna leaves out each trial that lacks one of the parameters; conditional ones would leave only few trials.
    common = [name for name in names if all(name in trial.params for trial in trials)]
    with quiet():
        found = optuna.importance.get_param_importances(study, params=common or names)
    ranked = sorted(found.items(), key=lambda share: -share[1])
    return Importance(tuple((name, float(share)) for name, share in ranked), len(trials))


def most_important(study: StudyView) -> list[str]:
    """Return the parameters that vary, the most important first; those that no trial tells of, in the file's order."""
    rows = drawable(study.sweep, study.rows())
    ranked = [name for name, _ in importance_of(rebuild(study.sweep, rows)).shares]
    return ranked + [name for name in varying(study.sweep) if name not in ranked]


def distinct_params(study: optuna.Study) -> list[str]:
    """Return the parameters of which the COMPLETE trials have at least two values."""
    values: dict[str, set[Any]] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        for name, value in trial.params.items():
            values.setdefault(name, set()).add(value)
    return [name for name, found in values.items() if len(found) > 1]
