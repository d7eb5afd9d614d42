"""A trial of a sweep, or its model, in a form that needs no sweeper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.core.code.user_code import find_trainable, load_trainable
from sweeper.core.errors import InputError
from sweeper.core.schema import integral
from sweeper.core.text import clean, metric, to_yaml
from sweeper.run.promote import saved_model
from sweeper.worker.task import trial_seed

if TYPE_CHECKING:
    from sweeper.core.trials import TrialRecord
    from sweeper.study.view import StudyView

MODEL_FORMS = {"keras": ".keras", "savedmodel": "", "onnx": ".onnx"}
"""Forms of the model, each with the ending of its file; a SavedModel is a folder."""

TEXT_FORMS = {"script": ".py", "yaml": ".yaml"}
"""Forms of the trial."""


def export_text(study: StudyView, row: TrialRecord, form: str) -> str:
    """Return a trial as a `script` of plain Keras that trains its network, or as a sweep in `yaml` of that one trial.

    Raises:
        InputError: the trainable has no script, or a hyperparameter has none.
    """
    title = clean(f"{study.name}, trial {row.number}: {study.sweep.objective.metric} {metric(row.value)}")
    return _yaml(study, row, title) if form == "yaml" else _script(study, row, title)


def export_model(study: StudyView, row: TrialRecord, form: str, target: Path) -> str:
    """Write the model of a trial to a file, or a folder, that does not exist yet; return what was checked.

    Raises:
        FileNotFoundError: the trial's model is not in the sweep's folder.
        InputError: it is no Keras model, or a package is missing.
        SweeperError: the exported model computes something else.
    """
    from sweeper import tracking

    packed, _ = saved_model(study, row)
    if packed is None:
        raise FileNotFoundError(study.folder)
    return tracking.export_model(packed, form, target)


def _yaml(study: StudyView, row: TrialRecord, title: str) -> str:
    """Return a sweep of one trial, with the parameters of a trial as constants and its seed."""
    declared: dict[str, Any] = study.sweep.model_dump(mode="json", exclude_defaults=True)
    if study.sweep.dataset is not None:
        declared["dataset"] = {"type": study.sweep.dataset.type, **declared["dataset"]}
    left_out = ("parallel", "timeout", "cpu_hours", "gpu_hours", "cost", "reuse")
    budget = {key: integral(value) for key, value in declared["budget"].items() if key not in left_out}
    constants = dict(row.params)
    model = find_trainable(study.sweep.trainable).params_model if isinstance(study.sweep.trainable, str) else None
    if model is not None and "seed" in model.model_fields and constants.get("seed") is None:
        constants["seed"] = trial_seed(study.sweep.seed, row.number)
    # Fresh seeds are for the best of many: this is one trial, with its own seed.
    replaced = ("enqueue", "space", "sampler", "pruner", "confirm")
    kept = {key: value for key, value in declared.items() if key not in replaced}
    changed = {"name": f"{study.name[:56]}-{row.number}", "budget": {**budget, "trials": 1}}
    methods: dict[str, Any] = {"sampler": {"type": "random"}, "pruner": {"type": "none"}}
    # More CPUs would change the last bits.
    methods["resources"] = {**declared.get("resources", {}), "elastic": False}
    remark = "".join(
        f"# It had {cpus} CPUs from report {step} on: up to there it comes out the same, and with "
        f"`sweeper reproduce {study.name} {row.number}` to its end.\n"
        for step, cpus in row.cpus[:1]
    )
    return f"# {title}\n{remark}" + to_yaml({**kept, **changed, **methods, "space": constants}, ascii_only=True)


def _script(study: StudyView, row: TrialRecord, title: str) -> str:
    sweep, path = study.sweep, study.sweep.trainable
    write = getattr(load_trainable(path), "as_script", None) if isinstance(path, str) else None
    if write is None or not isinstance(path, str):
        raise InputError(f"only the built-in trainable writes a script; the code of this sweep is {path}")
    model, data = find_trainable(path).params_model, study.facts.get("dataset")
    assert model is not None
    if data is None or sweep.dataset is None:
        raise InputError(f"sweep {study.name!r} has not loaded its data yet, so the length of a trial is not known")
    params, budget = model(**row.params), sweep.budget
    dataset: Any = sweep.dataset if sweep.dataset.type == data["name"] else sweep.dataset.resolve()
    epochs = (budget.steps or 0) * params.batch_size / data["train"] if budget.epochs is None else budget.epochs
    steps = budget.steps or max(round(epochs * data["train"] / params.batch_size), budget.reports)
    seed = trial_seed(sweep.seed, row.number) if params.seed is None else params.seed
    return str(write(params, dataset, steps=steps, epochs=epochs, seed=seed, title=title))
