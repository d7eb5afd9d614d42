"""Optuna's patient pruner, which also remembers whether it was used."""

from __future__ import annotations

from optuna.pruners import BasePruner, PatientPruner
from optuna.study import Study
from optuna.trial import FrozenTrial


class ObservedPatientPruner(PatientPruner):
    """Optuna's PatientPruner, which remembers whether it let the wrapped pruner judge the last report.

    Attributes:
        wrapped: the wrapped pruner, None if there is none.
        was_asked: whether the wrapped pruner judged the last report.
    """

    def __init__(self, wrapped: BasePruner | None, patience: int, min_delta: float) -> None:
        self.wrapped = wrapped
        self.was_asked = False
        super().__init__(None if wrapped is None else _Notifying(self, wrapped), patience, min_delta)

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        self.was_asked = False
        return super().prune(study, trial)


class _Notifying(BasePruner):
    def __init__(self, patient: ObservedPatientPruner, pruner: BasePruner) -> None:
        self._patient = patient
        self._pruner = pruner

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        self._patient.was_asked = True
        return self._pruner.prune(study, trial)
