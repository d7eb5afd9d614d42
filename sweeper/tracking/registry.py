"""Registration of a sweep's best model: logged with its trial, and registered when it becomes the champion.

Keras is not needed here: the model was saved by a worker.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.core.confirmation import McNemar
from sweeper.core.errors import TrackingError
from sweeper.core.secrets import redact
from sweeper.core.trials import Champion, TrialRecord
from sweeper.tracking import content
from sweeper.tracking.content import fit_tags
from sweeper.tracking.models.decision import (
    Challenger,
    Decision,
    against_champion,
    compare,
    confirmed_decision,
    is_to_compare,
)
from sweeper.tracking.models.logged import ModelLog
from sweeper.tracking.models.versions import CHAMPION_ALIAS, REASON_TAG, Versions
from sweeper.tracking.packaging import PACKED
from sweeper.tracking.pages.note import outcome_tags
from sweeper.tracking.projection import Projection, sync
from sweeper.tracking.server import short_reason

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

    from sweeper.spec import Sweep

DECISION_TAG, AGAINST_TAG = "sweeper.decision", "sweeper.decision.against"
"""Tags of a logged model that did not become the champion: the reason, and the version that stayed it."""

LoadData = Callable[[], Any]


@dataclass(frozen=True)
class Registered:
    """What came of the best model: where it is, notes for the user, and what MLflow did not take."""

    champion: Champion | None = None
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def register_best(
    study: content.Study,
    evaluation: Mapping[str, float] | None,
    folder: Path,
    projection: Projection,
    load: LoadData,
    record: Callable[[McNemar], None] = lambda found: None,
) -> Registered:
    """Register the best model of a sweep that has ended. The model stays in the folder in any case.

    Args:
        evaluation: its metrics on the test set; None if nothing is to be registered.
        load: loads the sweep's data, to test this model and the champion on it.
        record: called with how a confirmed model compares with the champion, if that is another one.
    """
    best, name = study.best(), study.sweep.tracking.model
    if best is None or evaluation is None:
        return Registered()
    has_model = (folder / PACKED).is_dir()
    notes: tuple[str, ...] = ()
    if not has_model and name is not None:
        notes = (
            f"nothing was registered as {name!r}: trial {best.number}, the best one, saved no model. Call "
            "trial.save_model(model) in the trainable; see docs/trainables.md",
        )
    if not has_model and not evaluation:
        return Registered(notes=notes)
    if not projection.flush():
        what = f"the best model is in {folder}" if has_model else f"the test metrics are in {folder}"
        return Registered(None, notes, (f"{what}; the same command registers it when MLflow keeps up",))
    try:
        champion = register_champion(study, best, evaluation, folder, projection.uri, load=load, record=record)
        projection.outcome |= outcome_tags(champion, best, evaluation)
        return Registered(champion, notes)
    except TrackingError as error:
        return Registered(None, notes, (str(error),))


def register_champion(
    study: content.Study,
    best: TrialRecord,
    evaluation: Mapping[str, float],
    folder: Path,
    uri: str,
    *,
    load: LoadData = lambda: None,
    record: Callable[[McNemar], None] = lambda found: None,
) -> Champion | None:
    """Log the packed model with its test metrics, and register it if it becomes the champion.

    Steps that were done before are not repeated. Without a packed model in `folder`, only the metrics are logged; then
    return None.

    Raises:
        TrackingError: MLflow cannot be reached, or refuses; the model stays in `folder`.
    """
    try:
        return _Registration(study, best, uri).run(evaluation, folder / PACKED, load, record)
    except Exception as error:
        raise TrackingError(
            f"MLflow at {redact(uri)} did not register the model ({short_reason(error)}); the best model is kept in "
            f"{folder}, and running the same sweep again registers it"
        ) from error


def promote(
    study: content.Study,
    trial: TrialRecord,
    packed: Path | None,
    uri: str,
    *,
    name: str,
    metrics: Mapping[str, float],
    retrained: Mapping[str, Any] | None = None,
) -> Champion | None:
    """Make a trial's model the champion of the registered model `name`, whatever a comparison says.

    Args:
        packed: the model that the trial has saved; None: the one that was logged in MLflow before.
        retrained: for the model that was trained again, on training and validation data: facts of where that was done.

    Returns:
        None if there is neither.

    Raises:
        TrackingError: MLflow cannot be reached, or refuses.
    """
    sync(study, uri)  # the run of the trial may be missing
    try:
        champion = _Registration(study, trial, uri, retrained=retrained).promote(metrics, packed, name)
        if champion is not None:
            sync(study, uri, outcome_tags(champion, trial, {}))
        return champion
    except Exception as error:
        raise TrackingError(f"MLflow at {redact(uri)} did not promote the model ({short_reason(error)})") from error


class _Registration:
    """The decision about a trial's logged model, and what follows from it in the registry."""

    def __init__(
        self, study: content.Study, trial: TrialRecord, uri: str, *, retrained: Mapping[str, Any] | None = None
    ) -> None:
        self._sweep, self._uri, self._confirmation, self._number = study.sweep, uri, study.confirmation(), trial.number
        self._how = "promoted by hand" + ("" if retrained is None else ", retrained on training and validation data")
        self._log = ModelLog(study, trial, uri, retrained=retrained)

    def run(
        self, metrics: Mapping[str, float], packed: Path, load: LoadData, record: Callable[[McNemar], None]
    ) -> Champion | None:
        """Log the packed model, and make it the champion if it beats the one that is."""
        if (model := self._log.log(packed, metrics)) is None:
            return None
        if (name := self._sweep.tracking.model) is None:
            reason = "not registered: the sweep has no tracking.model"
            return _champion(None, _Entry(model, None, None), Decision(False, reason))
        versions, tags = Versions(self._log.client, self._uri, name), self._version_tags(model, metrics)
        entry = _Entry.of(model, versions)
        challenger = Challenger(tags, metrics, packed, load, self._log.reported)
        if (current := entry.current) is not None and not entry.is_champion and versions.is_loadable(current):
            if is_to_compare(self._confirmation, self._number, title := f"{name} version {current.version}"):
                record(against_champion(challenger, current, versions, self._uri, title=title))
        if (decision := self._confirmed_decision(entry) or _known_decision(entry, versions)) is None:
            decision = compare(challenger, entry.current, versions, self._uri)
        return self._carry_out(decision, entry, versions, tags)

    def _confirmed_decision(self, entry: _Entry) -> Decision | None:
        """Return the decision against another trial of this sweep; None if it was made before, or is another one."""
        if entry.current is None:
            return None
        rival, holder = self._log.trial_of(entry.current), f"version {entry.current.version}"
        found = confirmed_decision(self._confirmation, self._number, rival, holder)
        was_made = found is not None and entry.own is not None and entry.own.tags.get(REASON_TAG) == found.reason
        return None if was_made else found

    def promote(self, metrics: Mapping[str, float], packed: Path | None, name: str) -> Champion | None:
        """Log the packed model, and make it the champion."""
        if (model := self._log.log(packed, metrics)) is None:
            return None
        versions = Versions(self._log.client, self._uri, name)
        entry = _Entry.of(model, versions)
        decision = Decision(True, "as before" if entry.is_champion else self._how)
        return self._carry_out(decision, entry, versions, self._version_tags(model, metrics))

    def _version_tags(self, model: LoggedModel, metrics: Mapping[str, float]) -> dict[str, str]:
        """Return the tags of a version: those that its model has already, as one of an earlier call may."""
        tags = {name: model.tags.get(name, value) for name, value in self._log.tags().items()}
        return fit_tags(tags | {key: repr(value) for key, value in metrics.items()})

    def _carry_out(self, decision: Decision, entry: _Entry, versions: Versions, tags: Mapping[str, str]) -> Champion:
        if not decision.promoted:
            if decision.is_final:
                known = {DECISION_TAG: decision.reason, AGAINST_TAG: _against(entry.current)}
                self._log.client.set_logged_model_tags(entry.model.model_id, fit_tags(known | dict(decision.tags)))
            reason = f"{decision.reason}; to make this model the champion: {_promote_command(self._sweep)}"
            if entry.own is None:
                reason = f"not registered as {versions.name}: {reason}"
            return _champion(versions.name, entry, replace(decision, reason=reason))
        own = entry.own or versions.create(entry.model, {**tags, **decision.tags})
        versions.link(entry.model, own)
        if not entry.is_champion or REASON_TAG not in own.tags:
            versions.make_champion(own, {REASON_TAG: decision.reason, **decision.tags})
        return _champion(versions.name, replace(entry, own=own), decision)


@dataclass(frozen=True)
class _Entry:
    """A logged model, its version, and the version that is the champion; None where there is none."""

    model: LoggedModel
    own: ModelVersion | None
    current: ModelVersion | None

    @classmethod
    def of(cls, model: LoggedModel, versions: Versions) -> _Entry:
        return cls(model, versions.of(model), versions.champion())

    @property
    def is_champion(self) -> bool:
        return self.own is not None and self.current is not None and self.own.version == self.current.version


def _known_decision(entry: _Entry, versions: Versions) -> Decision | None:
    """Return the decision that needs no comparison, or that was made before; None if models are to be compared."""
    if entry.current is None:
        return Decision(True, "the first champion")
    if entry.is_champion:
        return Decision(True, "as before")
    holder = f"version {entry.current.version}"
    if not versions.is_loadable(entry.current):
        return Decision(True, f"the files of {holder}, the champion before, are gone")
    if entry.own is not None and REASON_TAG in entry.own.tags:  # to run a sweep again takes nothing back
        return Decision(False, f"{holder} took its place")
    if entry.model.tags.get(AGAINST_TAG) == _against(entry.current):
        return Decision(False, entry.model.tags[DECISION_TAG])
    return None


def _champion(name: str | None, entry: _Entry, decision: Decision) -> Champion:
    number = None if entry.own is None else int(entry.own.version)
    current = None if entry.current is None else int(entry.current.version)
    if decision.promoted:
        uri = f"models:/{name}@{CHAMPION_ALIAS}"
    else:
        uri = f"models:/{entry.model.model_id}" if number is None else f"models:/{name}/{number}"
    return Champion(
        name=name,
        version=number,
        promoted=decision.promoted,
        previous=None if current == number else current,
        reason=decision.reason,
        uri=uri,
        run_id=str(entry.model.source_run_id),
        model_id=entry.model.model_id,
    )


def _against(current: ModelVersion) -> str:
    """Return what identifies a champion: its version, and the model, as its registered model may be made anew."""
    return f"{current.name} {current.version} {current.source}"


def _promote_command(sweep: Sweep) -> str:
    is_default = sweep.storage in ("sqlite:///sweeper.db", "${env:SWEEPER_STORAGE}")
    return shlex.join(["sweeper", "promote", sweep.name, *([] if is_default else ["--storage", sweep.storage])])
