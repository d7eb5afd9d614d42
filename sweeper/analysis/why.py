"""Why a trial ended as it did, and where its parameters came from, in sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweeper.analysis.trials import INTERRUPTED, PAUSED, as_seen, describe_goals, position, unit
from sweeper.core.text import clean, metric, number
from sweeper.core.trials import leaderboard
from sweeper.search.pruning.pruners import Patient, Percentile

if TYPE_CHECKING:
    from sweeper.core.trials import Attempt, Decision, TrialRecord
    from sweeper.spec import Sweep
    from sweeper.study.view import StudyView

_ORIGINS = {
    "start point": "Its parameters are a start point.",
    "random start-up": "Its parameters were drawn at random, as those of the first trials are.",
    "fork": "Its parameters are a start point, taken over from the sweep that this one was forked from.",
    "random": "Its parameters were drawn at random.",
    "grid": "Its parameters are a point of the grid.",
    "qmc": "Its parameters are a point of the quasi-random sequence.",
    "tpe": "TPE proposed its parameters.",
    "gp": "The Gaussian process proposed its parameters.",
    "cmaes": "CMA-ES proposed its parameters.",
    "nsga2": "NSGA-II made its parameters from those of earlier trials.",
}

FAILURES = {
    "driver": "the sweep was interrupted",
    "node": "its node was lost",
    "crash": "its process died",
    "stall": "it reported nothing for too long",
    "io": "a file or a connection failed",
    "memory": "the memory was not enough",
    "gpu": "the memory of the GPU was not enough",
    "error": "its code raised an error",
    "diverged": "it diverged",
}
"""What the kinds of failure mean."""


@dataclass(frozen=True)
class _Trial:
    """A trial with what the study knows of its way."""

    study: StudyView
    row: TrialRecord
    failed: Sequence[Attempt]
    decisions: Sequence[Decision]

    @property
    def name(self) -> str:
        return f"Trial {self.row.number}"

    @property
    def sweep(self) -> Sweep:
        return self.study.sweep

    @property
    def place(self) -> str:
        """Its last report, as in `epoch 3`."""
        return f"{unit(self.sweep.budget).removesuffix('s')} {self.sweep.budget.epoch_of(self.row.step):g}"

    @property
    def value(self) -> str:
        """Its last value, as the end of a sentence; empty if it has none."""
        return "" if self.row.value is None else f", with {describe_goals(self.row, self.sweep)}"


def why(study: StudyView, row: TrialRecord, decisions: Sequence[Decision] | None = None) -> tuple[str, ...]:
    """Return sentences that say why a trial ended as it did, or what it does, and where its parameters came from.

    Args:
        decisions: what the pruner decided about it, where all decisions of the study have been read before.
    """
    (seen,) = as_seen([row], is_running=study.is_running)
    if decisions is None:
        decisions = study.decisions().get(row.number, ())
    trial = _Trial(study, seen, study.attempts().get(row.number, ()), decisions)
    sentences = _ENDINGS[seen.state](trial)
    if row.reused:
        sentences.insert(1, f"Its reports were taken from {row.reused}: no worker trained it.")
    if row.reused or not row.is_added:
        sentences.append(_origin(row))
    return tuple(clean(sentence) for sentence in sentences)


def _origin(row: TrialRecord) -> str:
    origin = row.origin and row.origin.partition(";")[0]
    if origin is None:
        return "Where its parameters came from was not recorded."
    if row.confirms is not None:
        return f"Its parameters are those of trial {row.confirms.trial}."
    if origin.startswith("random,"):
        return f"Its parameters were drawn at {origin}."
    return _ORIGINS.get(origin, f"The sampler {origin} proposed its parameters.")


def _complete(trial: _Trial) -> list[str]:
    row, budget = trial.row, trial.sweep.budget
    if row.is_added and row.reused is None:
        return [f"{trial.name} was added to the study{trial.value}, and was not trained here."]
    if row.step < budget.reports:
        how = row.reason or f"returned after {trial.place}"
        made = f"{row.step} of {budget.reports} reports"
        first = f"{trial.name} is complete although it made only {made}: its code {how}{trial.value}."
    else:
        rank = "" if row.reused else f", {_rank(trial)}"
        first = f"{trial.name} is complete: it ran to {trial.place}{trial.value}{rank}."
    if (fresh := row.confirms) is not None:
        first = f"{trial.name} trained trial {fresh.trial} again with a fresh seed, to {trial.place}{trial.value}."
    return [first, *_passed(trial), *_earlier(trial)]


def _rank(trial: _Trial) -> str:
    """Say how a complete trial compares with the others."""
    rows = trial.study.rows(with_fresh=trial.row.confirms is not None)
    complete = [other for other in rows if other.state == "COMPLETE" and not other.is_added]
    if len(complete) == 1:
        return "the only complete trial"
    ranked = [other.number for other in leaderboard(complete, trial.sweep.objective.direction)]
    place = ranked.index(trial.row.number) + 1
    return f"{'the best' if place == 1 else f'ranked {place}'} of {len(complete)} complete trials"


def _passed(trial: _Trial) -> list[str]:
    """Say how a trial has passed the pruner; nothing if that was not recorded, or none has judged it."""
    made = [decision for decision in trial.decisions if not decision.is_pruned]
    rungs = [f"{one.rank} of {one.peers} at rung {one.rung}" for one in made if one.rung and one.rank and one.peers]
    paused = [f"rung {one.rung}" for one in trial.decisions if one.is_pruned and one.step < trial.row.step and one.rung]
    later = [f"It was paused at {_joined(paused)}, and continued later."] if paused else []
    if rungs:
        return [f"It passed {_count(len(rungs), 'rung')}: it ranked {_joined(rungs)}.", *later]
    if later:
        return later
    if made:
        return [f"The pruner ({made[-1].pruner}) compared it at {_count(len(made), 'report')}, and let it continue."]
    return []


def _pruned(trial: _Trial) -> list[str]:
    if (trial.row.reason or "").startswith("pruned by its own code"):
        return [f"{trial.name} was pruned by its own code after {trial.place}{trial.value}.", *_earlier(trial)]
    decision = next((one for one in reversed(trial.decisions) if one.is_pruned), None)
    if decision is None:
        unknown = "What the pruner compared was not recorded."
        return [f"{trial.name} was pruned after {trial.place}{trial.value}.", unknown, *_earlier(trial)]
    end = f"paused after {trial.place} and not continued" if trial.row.is_paused else f"pruned after {trial.place}"
    return [f"{trial.name} was {end}: {_comparison(trial.sweep, decision)}.", *_earlier(trial)]


def _comparison(sweep: Sweep, seen: Decision) -> str:
    """Say what a pruner saw when it stopped a trial, in the words of the pruner."""
    if seen.patience is None:
        return _compared(sweep, seen)
    waited = f"{sweep.objective.metric} had not improved for {_count(seen.patience, 'report')}"
    if seen.pruner != "patient":
        return f"{waited}, and {_compared(sweep, seen)}"
    if seen.value is None or seen.cutoff is None:
        return waited
    value, cutoff = _told_apart(seen.value, seen.cutoff)
    has_delta = isinstance(sweep.pruner, Patient) and sweep.pruner.min_delta > 0
    before = "its best before, less min_delta" if has_delta else "its best before"
    return f"{waited}: the best of these was {value}, worse than {cutoff}, {before}"


def _compared(sweep: Sweep, seen: Decision) -> str:
    name, kind = sweep.objective.metric, seen.pruner
    if seen.value is None:
        return f"{name} was not a number"
    value, cutoff = _told_apart(seen.value, seen.cutoff)
    if kind == "promotion":
        return _at_rung(seen, f"an expected {name} of {value}", cutoff)
    if kind in ("successive_halving", "hyperband"):
        return _at_rung(seen, f"{name} {value}", cutoff)
    if kind == "threshold":
        if seen.cutoff is None:
            return f"{name} {value} left the range that is allowed"
        side, limit = ("above", "highest") if seen.value > seen.cutoff else ("below", "lowest")
        return f"{name} {value} was {side} the {limit} value that is allowed, {cutoff}"
    side = "below" if sweep.objective.direction == "maximize" else "above"
    others = _count(seen.peers - 1, "complete trial") if seen.peers and seen.peers > 1 else "the complete trials"
    bar = f", {cutoff}," if cutoff else ""
    if kind == "median":
        return f"its best {name} until then, {value}, was {side} the median{bar} of {others} at that report"
    share = f"best {number(sweep.pruner.percentile)} %" if isinstance(sweep.pruner, Percentile) else "best"
    limit = f" (cut-off {cutoff})" if cutoff else ""
    return f"its best {name} until then, {value}, was not among the {share} of {others} at that report{limit}"


def _at_rung(seen: Decision, value: str, cutoff: str) -> str:
    rung = f"rung {seen.rung}" if seen.rung else "that rung"
    rung += f" of bracket {seen.bracket}" if seen.bracket else ""
    bar = f" (cut-off {cutoff})" if cutoff else ""
    if seen.rank is None or seen.peers is None:
        return f"{value} did not pass {rung}{bar}"
    place = f"{value} ranked {seen.rank} of {seen.peers} at {rung}"
    if not seen.kept:
        return f"{place}, which none passes before more trials have reached it"
    return f"{place}; {'only the best' if seen.kept == 1 else f'the best {seen.kept}'} of {seen.peers} continued{bar}"


def _failed(trial: _Trial) -> list[str]:
    row, reason = trial.row, (trial.row.reason or "unknown reason").rstrip(".")
    if reason.startswith("enqueued, but"):
        return [f"{trial.name} was not run: it was {reason}."]
    when = f"after {trial.place}" if row.step else "before its first report"
    sentences = [f"{trial.name} failed {when}: {reason}."]
    if len(trial.failed) > 1:
        sentences.append(f"{len(trial.failed)} attempts failed.")
    if not trial.study.is_running:
        sentences.append(f"To run it again with its parameters: sweeper retry {trial.study.name} {row.number}")
    return sentences


def _running(trial: _Trial) -> list[str]:
    row, failed = trial.row, trial.failed
    at = f"at {position(row, trial.sweep)}{trial.value}" if row.step else "and has not reported yet"
    if failed and failed[-1].attempt == row.attempt:
        reason = failed[-1].reason.rstrip(".")
        return [f"{trial.name} waits for attempt {row.attempt + 1}: attempt {row.attempt} failed ({reason})."]
    return [f"{trial.name} is running {at}.", *_passed(trial), *_earlier(trial)]


def _interrupted(trial: _Trial) -> list[str]:
    at = f"at {position(trial.row, trial.sweep)}{trial.value}" if trial.row.step else "before its first report"
    first = f"{trial.name} was interrupted {at}: it has not ended, and no process runs the sweep."
    return [first, *_passed(trial), *_earlier(trial), f"To continue it: sweeper resume {trial.study.name}"]


def _paused(trial: _Trial) -> list[str]:
    decision = next((one for one in reversed(trial.decisions) if one.is_pruned), None)
    because = f": {_comparison(trial.sweep, decision)}" if decision else trial.value
    first = f"{trial.name} is paused after {trial.place}{because}."
    return [first, "It continues once it is among the best at this rung.", *_earlier(trial)]


_ENDINGS: dict[str, Callable[[_Trial], list[str]]] = {
    "COMPLETE": _complete,
    "PRUNED": _pruned,
    "FAIL": _failed,
    "RUNNING": _running,
    INTERRUPTED: _interrupted,
    PAUSED: _paused,
}


def _earlier(trial: _Trial) -> list[str]:
    """Say which attempts failed before the one that counts."""
    if not trial.failed:
        return []
    if len(trial.failed) == 1:
        return [f"An earlier attempt failed: {trial.failed[0].reason.rstrip('.')}."]
    return [f"{len(trial.failed)} earlier attempts failed, the last one because {FAILURES[trial.failed[-1].kind]}."]


def _told_apart(value: float, cutoff: float | None) -> tuple[str, str]:
    """Format a value and its cut-off with as many digits as show that they differ; "" for no cut-off."""
    if cutoff is None:
        return metric(value), ""
    first, second, digits = metric(value), metric(cutoff), 5
    while first == second and value != cutoff and digits <= 17:
        first, second, digits = f"{value:.{digits}g}", f"{cutoff:.{digits}g}", digits + 1
    return first, second


def _count(many: int, thing: str) -> str:
    return f"{many} {thing}{'' if many == 1 else 's'}"


def _joined(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
