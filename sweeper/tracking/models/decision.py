"""The decision whether a sweep's best model becomes the champion, and the test of two models on the same data.

The driver loads no model: a short-lived process does, see `rematch.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sweeper.core.confirmation import McNemar
from sweeper.core.secrets import redact
from sweeper.core.text import first_line
from sweeper.tracking.client import default_store
from sweeper.tracking.models.versions import Versions, is_ours

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from sweeper.core.confirmation import Confirmation

COMPARABILITY_TAGS = (
    "sweeper.dataset.name",
    "sweeper.dataset.digest",
    "sweeper.split",
    "sweeper.metric",
    "sweeper.direction",
)
"""Tags that two versions must share for their values to be comparable."""

REMATCH_TAGS = {"sweeper.dataset.digest", "sweeper.split"}
"""Those of them that may differ if both models are tested on the same test set instead."""

RETRAINED = "sweeper.retrained"
"""Tag of a model: the data that it was trained on after the sweep, or `no` if it is the model of the trial itself."""

CONFIRMED_TAG = "sweeper.confirmed"
"""Tag with the values of the fresh runs that confirmed a model's trial, as JSON."""

REMATCH_TIMEOUT_S = 300.0
"""Longest test of two models, in seconds."""

ACCURACY, ERROR = "accuracy", "mean squared error"


@dataclass(frozen=True)
class Decision:
    """Whether a model becomes the champion, the reason in one line, and what was measured for it, as tags.

    `is_final` is False if another attempt may come to another decision.
    """

    promoted: bool
    reason: str
    tags: Mapping[str, str] = field(default_factory=dict)
    is_final: bool = True


@dataclass(frozen=True)
class Challenger:
    """A model that may become the champion: its version's tags, its test metrics, its files, and the sweep's data."""

    tags: Mapping[str, str]
    evaluation: Mapping[str, float]
    packed: Path
    load_data: Callable[[], Any]
    """Returns `datasets.base.Arrays`; None if the sweep names no dataset."""
    validation: Sequence[float] = ()
    """What its trial has reported at its end, by which its predictions for the validation set are checked."""


def confirmed_tags(found: Confirmation | None, trial: int) -> dict[str, str]:
    """Return the tag of a trial whose fresh runs have all ended; nothing for another one."""
    contenders = found.contenders if found is not None and found.is_complete else ()
    each = next((each for each in contenders if each.trial == trial and not each.dropped), None)
    return {} if each is None else {CONFIRMED_TAG: json.dumps(each.values)}


def confirmed_decision(found: Confirmation | None, trial: int, rival: int | None, holder: str) -> Decision | None:
    """Return the decision against the champion if that is another trial of the same sweep, and this one is confirmed.

    The mean of fresh runs decides then: the other one may only have been lucky in the search.

    Args:
        rival: the trial that is the champion; None if it is of another sweep.
    """
    if found is None or found.best is None or found.best.trial != trial or rival in (None, trial):
        return None
    other = next((each for each in found.contenders if each.trial == rival), None)
    means = f"{found.best.mean:.6g} with fresh seeds"
    if other is not None and other.mean is not None:
        means += f" against {other.mean:.6g}"
    return Decision(True, f"beats {holder}, trial {rival} of the same sweep: {means}")


def compare(challenger: Challenger, current: ModelVersion, versions: Versions, uri: str) -> Decision:
    """Compare a model with the champion by their values in validation, or else by a test on the same data.

    A champion that is not comparable keeps its place: there is no evidence that the new model is better.
    """
    holder, tags = f"version {current.version}", challenger.tags
    if not is_ours(current):
        return Decision(False, f"{holder} stays champion: not comparable, somebody registered it without sweeper")
    differing = [key for key in COMPARABILITY_TAGS if current.tags.get(key) != tags[key]]
    if differing and set(differing) <= REMATCH_TAGS:
        return _rematch(challenger, current, versions, uri)
    try:
        new, old = float(tags["sweeper.value"]), float(current.tags["sweeper.value"])
    except (KeyError, ValueError):
        differing.append("sweeper.value")
        new = old = 0.0
    if differing:
        names = ", ".join(key.removeprefix("sweeper.") for key in differing)
        return Decision(False, f"{holder} stays champion: not comparable, it has another {names}")
    noise = ""
    if (fresh := _fresh_values(tags)) and (others := _fresh_values(current.tags)):  # two searched values are both lucky
        new, old, noise = fmean(fresh), fmean(others), f", both with fresh seeds{_noise(fresh, others)}"
    better = new > old if tags["sweeper.direction"] == "maximize" else new < old
    return Decision(better, _reason(better, holder, f"{tags['sweeper.metric']} {new:.6g} against {old:.6g}{noise}"))


def _fresh_values(tags: Mapping[str, str]) -> list[float]:
    """Return the values of the fresh runs that confirmed a version; none if it was not confirmed."""
    try:
        values = [float(value) for value in json.loads(tags.get(CONFIRMED_TAG, "[]"))]
    except (TypeError, ValueError):  # somebody has changed the tag
        return []
    return values if len(values) > 1 else []


def _noise(one: list[float], other: list[float]) -> str:
    """Say whether the means differ by more than noise, by Welch's t test."""
    from scipy.stats import ttest_ind

    if len({*one}) == len({*other}) == 1:
        return ""
    p = float(ttest_ind(one, other, equal_var=False).pvalue)
    return f"; {'more than noise' if p < 0.05 else 'perhaps only noise'}, p = {p:.2g}"


def _reason(better: bool, holder: str, scores: str) -> str:
    return f"beats {holder}: {scores}" if better else f"{holder} stays champion: {scores}"


def _rematch(challenger: Challenger, current: ModelVersion, versions: Versions, uri: str) -> Decision:
    """Test both models on the challenger's test set; the champion was judged on other data or another split."""
    holder = f"version {current.version}"
    try:
        metric, new, old = _test_both(challenger, current, versions, uri)
    except _NotComparableError as error:
        return Decision(
            False, f"{holder} stays champion: judged on other data, and not comparable, because {error}", is_final=False
        )
    better = new < old if metric == ERROR else new > old
    measured = {"metric": metric, "value": repr(new), "champion": str(current.version), "champion_value": repr(old)}
    return Decision(
        better,
        _reason(better, holder, f"{metric} {new:.6g} against {old:.6g}, both on the test set of this sweep"),
        {f"sweeper.rematch.{name}": value for name, value in measured.items()},
    )


class _NotComparableError(Exception):
    """The reason why two models could not be compared, as the end of a sentence."""


def _test_both(challenger: Challenger, current: ModelVersion, versions: Versions, uri: str) -> tuple[str, float, float]:
    """Return the metric, the challenger's value and the champion's."""
    if not challenger.evaluation:
        raise _NotComparableError("this sweep's trainable has no `evaluate`, which shows how its model is tested")
    try:
        data = challenger.load_data()
        found = _run_both(challenger, current, versions, uri, None if data is None else (data.x_test, data.y_test))
    except _NotComparableError:
        raise
    except Exception as error:  # a store, a disk or a data set that fails here must not end the sweep
        raise _NotComparableError(f"the test failed ({redact(first_line(error))[:300]})") from error
    metric, new, old = str(found["metric"]), float(found["challenger"]), float(found["champion"])
    _check_inputs(new, metric, challenger.evaluation.values(), "of its test metrics")
    return metric, new, old


def _run_both(
    challenger: Challenger, current: ModelVersion, versions: Versions, uri: str, samples: tuple[Any, Any] | None
) -> dict[str, Any]:
    """Run both models on some samples, inputs and what belongs to each; return what `rematch.py` says."""
    if samples is None:
        raise _NotComparableError("this sweep names no dataset to test both on")
    with TemporaryDirectory(prefix="sweeper-") as name:
        folder = Path(name)
        _download(versions, current, uri, folder / "champion")
        shutil.copytree(challenger.packed, folder / "challenger")
        return _run(folder, *samples)


def _check_inputs(new: float, metric: str, known: Iterable[float], which: str) -> None:
    """Check that a model has computed here what it did in its trial: its code may scale its inputs."""
    tolerance = 0.005 if metric == ACCURACY else 0.01 * abs(new)
    if not any(abs(value - new) <= tolerance for value in known):
        raise _NotComparableError(
            f"the {metric} of this sweep's model on the dataset as it is ({new:.6g}) is none {which}; "
            "it may need its inputs scaled"
        )


def is_to_compare(found: Confirmation | None, trial: int, title: str) -> bool:
    """Return whether a trial is confirmed as the best one, and not compared yet with a version of this title."""
    is_confirmed = found is not None and found.best is not None and found.best.trial == trial
    return is_confirmed and all(each.against != title for each in (found.compared if found else ()))


def against_champion(
    challenger: Challenger, current: ModelVersion, versions: Versions, uri: str, *, title: str
) -> McNemar:
    """Return the classes that a model and the champion predict for the validation set of the sweep, compared.

    Both must have been validated on it, so that neither was trained on any of it.
    """
    tags = current.tags
    differing = [name for name in REMATCH_TAGS if tags.get(name) != challenger.tags[name]]
    if not is_ours(current):
        return McNemar(title, missing="somebody registered it without sweeper")
    if differing or tags.get(RETRAINED, "no") != "no":
        return McNemar(title, missing="it was trained on other data")
    try:
        data = challenger.load_data()
        found = _run_both(challenger, current, versions, uri, None if data is None else (data.x_val, data.y_val))
        if found["metric"] != ACCURACY:
            raise _NotComparableError("it has no classes")
        _check_inputs(float(found["challenger"]), ACCURACY, challenger.validation, "of its metrics")
        return McNemar(title, found["samples"], found["only_challenger"], found["only_champion"])
    except Exception as error:
        return McNemar(title, missing=redact(first_line(error))[:200])


def _download(versions: Versions, current: ModelVersion, uri: str, folder: Path) -> None:
    import mlflow

    address, beside = f"models:/{versions.name}/{current.version}", folder.with_name("downloaded")
    with default_store(uri):
        Path(mlflow.artifacts.download_artifacts(address, dst_path=str(beside))).rename(folder)


def _run(folder: Path, x: Any, y: Any) -> dict[str, Any]:
    """Run `rematch.py` on the models in `folder`; return what it wrote."""
    import numpy as np

    np.savez(folder / "test.npz", x=x, y=y)
    script = Path(__file__).with_name("rematch.py")
    # -P: the folder of the script is not on the path, where its neighbours would hide other modules.
    command = [sys.executable, "-P", str(script), str(folder)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=REMATCH_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise _NotComparableError(f"the test took longer than {REMATCH_TIMEOUT_S:g} s") from error
    result = folder / "result.json"
    if not result.exists():
        raise _NotComparableError(f"the process that tested both ended with code {done.returncode}")
    found: dict[str, Any] = json.loads(result.read_bytes())
    if "error" in found:
        raise _NotComparableError(redact(str(found["error"]))[:300])
    return found
