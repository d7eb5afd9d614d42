"""Sections about the outcome: the answer, the best model's mistakes, the sweep file, versions, how to reproduce."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from typing import Any

from sweeper.analysis.costs import Costs, costs_of
from sweeper.analysis.report import plots
from sweeper.analysis.report.material import Material, plain
from sweeper.analysis.report.parts import Figure, Picture, Section, Table
from sweeper.analysis.report.timeline import timeline_of
from sweeper.analysis.trials import CONFIRMED_HEAD, confirmed_cells, describe_confirmed, remark_on_pruned, varying
from sweeper.core.predictions import Predictions
from sweeper.core.secrets import redact
from sweeper.core.text import duration, format_list, metric, number, scalar, tally, to_yaml

DEFAULT_STORAGES = ("sqlite:///sweeper.db", "${env:SWEEPER_STORAGE}")


def answer(material: Material) -> Section:
    """Return the section with what the sweep found, and what it cost."""
    best, tested = material.best, material.tested
    counts = Counter(row.state for row in material.rows)
    facts = [("Best trial", _best(material)), ("On the test set", _test(material)), ("Model", _model(material))]
    facts.append(("Trials", f"{tally(counts)}, of {material.study.trial_limit}"))
    facts += _cost(material, costs_of(material.study))
    notes = [*material.study.remarks(), *filter(None, [remark_on_pruned(material.study.rows(), material.sweep)])]
    if not tested.has_folder:
        notes.append(
            f"the folder of the sweep, {plain(material.study.folder)}, was not at hand: what only it has, such as the "
            "confusion matrix, is missing"
        )
    table = None
    if best is not None:
        searched = set(varying(material.sweep))
        rows = [
            (plain(name), plain(scalar(value)), "" if name in searched else "constant")
            for name, value in best.params.items()
        ]
        table = Table.of(("parameter", "value", ""), rows)
    return Section(
        "answer",
        "The answer",
        tuple(_sentence(note) for note in notes),
        facts=tuple(facts),
        table=table,
        table_title=f"All parameters of trial {best.number}" if best else "",
    )


def _sentence(text: str) -> str:
    shown = plain(text)
    return shown[:1].upper() + shown[1:] + ("" if shown.endswith((".", "!", "?")) else ".")


def _best(material: Material) -> str:
    best = material.best
    if best is None:
        return "none: " + (material.missing_results() or "no trial that was run here has completed.")
    searched = [name for name in varying(material.sweep) if name in best.params]
    params = ", ".join(f"{plain(name)} {plain(scalar(best.params[name]))}" for name in searched)
    return f"trial {best.number}: {material.objective} {metric(best.value)}" + (f" with {params}" if params else "")


def _test(material: Material) -> str:
    tested = material.tested
    if tested.metrics:
        return ", ".join(f"{plain(name)} {number(value)}" for name, value in tested.metrics.items())
    if material.best is None:
        return "not tested: there is no best trial"
    if not tested.has_folder:
        return "not known here: the folder of the sweep is not at hand"
    if material.is_running:
        return "not yet: the best trial is tested when the sweep ends"
    return "not tested, or tested with another best trial; a trainable with `evaluate` is tested when its sweep ends"


def _model(material: Material) -> str:
    champion, name = material.tested.champion, material.sweep.tracking.model
    if champion is None:
        if name is None:
            return "not registered: the sweep has no tracking.model"
        return (
            f"in MLflow as {plain(name)}, if it became the champion; the report there was made by the run and says so"
        )
    if champion.version is None:
        return f"{plain(champion.uri)}, {plain(champion.reason)}"
    verdict = "is the champion" if champion.promoted else "is not the champion"
    name, reason = plain(champion.name), plain(champion.reason)
    return f"{name} version {champion.version} {verdict} ({reason}): {plain(champion.uri)}"


def _cost(material: Material, costs: Costs) -> list[tuple[str, str]]:
    """Describe what the search took, and what pruning saved."""
    now = material.moment if material.is_running else None
    shown = timeline_of(material.rows, material.attempts, material.reports, now=now)
    facts = []
    if shown.start is not None and shown.end is not None:
        paused = sum((end - start).total_seconds() for start, end in shown.pauses)
        took = (shown.end - shown.start).total_seconds() - paused
        parts = [f"{state.lower()} {duration(seconds)}" for state, seconds in costs.by_state.items() if seconds]
        ran = f"trials ran {duration(costs.seconds)} ({', '.join(parts)})"
        facts.append(("Time", f"{duration(took)} from the first trial to the last; {ran}"))
    budget, unit = material.sweep.budget, material.unit
    run, budgeted = budget.epoch_of(costs.reports_run), budget.epoch_of(costs.reports_budgeted)
    if any(row.state == "PRUNED" for row in material.rows) and costs.reports_budgeted:
        saved = 1 - costs.reports_run / costs.reports_budgeted
        facts.append(("Saved by pruning", f"{saved:.0%}: {run:g} of {budgeted:g} {unit} were run"))
    elif material.rows:
        facts.append(("Saved by pruning", f"nothing: {run:g} {unit} were run, and no trial was pruned"))
    return facts


def confirmation(material: Material) -> Section:
    """Return the section with what the best trials reach with fresh seeds."""
    name, title = "confirmation", "Is it really better?"
    found, direction = material.study.confirmation(), material.sweep.objective.direction
    if found is None or not found.contenders:
        return Section(
            name,
            title,
            missing="The best value of many is partly luck. "
            f"`sweeper confirm {plain(material.study.name)}` trains the best trials again with fresh seeds, once the "
            "search has ended.",
        )
    text = "The best trials were trained again with fresh seeds. The champion is the one with the best mean."
    return Section(
        name,
        title,
        (text, *map(_sentence, describe_confirmed(found, direction))),
        table=Table.of(CONFIRMED_HEAD, confirmed_cells(found)),
        table_title="The contenders: mean and 95 % interval of the fresh runs",
    )


def predictions(material: Material) -> Section:
    """Return the section with the confusion matrix of the best model, and its worst mistakes."""
    name, title, found = "confusion", "What the best model gets wrong", material.tested.predictions
    if found is None:
        return Section(name, title, missing=_no_predictions(material))
    samples, correct = _count(found)
    text = f"{correct:,} of {samples:,} samples of the test set are right ({correct / max(1, samples):.2%})."
    names = [plain(each) for each in found.classes]
    rows = [
        (
            names[place],
            f"{sum(row):,}",
            f"{row[place]:,}",
            f"{row[place] / max(1, sum(row)):.1%}",
            _most_often(found, place),
        )
        for place, row in enumerate(found.matrix)
    ]
    pictures = [
        Picture(
            mistake.picture,
            f"A sample of class {names[mistake.label]} that was predicted as {names[mistake.predicted]}",
            f"{names[mistake.label]}, predicted {names[mistake.predicted]} ({mistake.probability:.1%})",
        )
        for mistake in found.mistakes
        if mistake.picture
    ]
    if pictures:
        text += f" Below the matrix are the {len(pictures)} mistakes that the model was surest of."
    figure = Figure.of(
        name,
        plots.confusion(found),
        f"Confusion matrix of {len(names)} classes: {correct:,} of {samples:,} samples are right.",
        height=200 + 30 * min(20, len(names)),
    )
    return Section(
        name,
        title,
        (text,),
        (figure,),
        tuple(pictures),
        table=Table.of(("class", "samples", "right", "share", "most often taken for"), rows),
        table_title="The classes as a table",
    )


def _count(found: Predictions) -> tuple[int, int]:
    """Return the number of samples, and that of the right predictions."""
    return sum(map(sum, found.matrix)), sum(row[place] for place, row in enumerate(found.matrix))


def _most_often(found: Predictions, place: int) -> str:
    others = [(count, -other) for other, count in enumerate(found.matrix[place]) if other != place and count]
    if not others:
        return ""
    count, other = max(others)
    return f"{plain(found.classes[-other])} ({count})"


def _no_predictions(material: Material) -> str:
    """Return why there is no confusion matrix."""
    own = material.sweep.trainable != "sweeper.training:train_rnn"
    if own:
        return (
            "Only the built-in trainable, `sweeper.training:train_rnn`, records what its best model predicts for the "
            "test set; this sweep has one of its own."
        )
    if material.sweep.dataset is not None and not material.sweep.dataset.labels:
        return "The network forecasts a series; only a classifier has a confusion matrix."
    if material.best is None:
        return "There is no best trial."
    if not material.tested.has_folder:
        return f"It is in the folder of the sweep, {plain(material.study.folder)}, which is not at hand."
    if material.is_running:
        return "The best trial is tested when the sweep ends."
    return "The test of the best trial recorded none: it was not tested, or an older sweeper tested it."


def sweep_file(material: Material) -> Section:
    """Return the section with the sweep as a YAML file, its secrets masked."""
    text = redact(to_yaml(material.sweep.model_dump(mode="json")))
    return Section("yaml", "The sweep file", ("Every setting, also those that were left at their default.",), code=text)


def versions(material: Material) -> Section:
    """Return the section with the versions and the data that the sweep ran with."""
    facts = material.study.facts
    rows = [(plain(name), plain(value)) for name, value in _mapping(facts.get("versions")).items()]
    rows += [(f"dataset, {plain(name)}", plain(value)) for name, value in _mapping(facts.get("dataset")).items()]
    files = _mapping(facts.get("files"))
    rows += [(f"code, {plain(name)}", plain(value)) for name, value in files.items()]
    if not rows:
        return Section("versions", "Versions", missing="They are not recorded in this study.")
    return Section(
        "versions",
        "Versions",
        ("What the sweep ran with last; code and data as SHA-256.",),
        table=Table.of(("what", "version"), rows),
        table_title="Versions of packages, data and code",
    )


def reproduce(material: Material) -> Section:
    """Return the section with how to run the sweep again."""
    sweep, facts = material.sweep, material.study.facts
    file = f"{sweep.name}.yaml"
    known = _mapping(facts.get("versions"))
    packages = [f"{name}=={value}" for name, value in known.items() if name not in ("python", "sweeper")]
    texts = [
        f"All randomness derives from the seed {sweep.seed} and the numbers of the trials. With several trials at a "
        "time, the order in which they report decides what the sampler and the pruner see, so the same command may "
        "choose other trials; a trial with the same number and parameters is the same."
    ]
    if history := _mapping(facts.get("history")):
        texts.append(f"The sweep was forked from {plain(history.get('sweep'))} and learned from its trials.")
    if len(eras := facts.get("eras", ())) > 1:
        texts.append(f"Its sampler or pruner was changed {len(eras) - 1} times; the file has the last ones.")
    if files := _mapping(facts.get("files")):
        texts.append(f"The trainable's own code is needed too: {plain(format_list(sorted(files)))}.")
    storage = [] if sweep.storage in DEFAULT_STORAGES else ["--storage", sweep.storage]
    lines = [f"# save the sweep file above as {file}"]
    if known:
        lines.append(f"# Python {known.get('python', '?')}, sweeper {known.get('sweeper', '?')}, and:")
    if packages:
        lines.append(shlex.join(["pip", "install", *packages]))
    lines.append(shlex.join(["sweeper", "run", file, "--name", f"{sweep.name}-again"]))
    if material.best is not None:
        lines += [shlex.join(["sweeper", "best", sweep.name, *storage]) + "  # the best parameters alone"]
    return Section("reproduce", "How to reproduce", tuple(texts), code=plain_lines(lines))


def plain_lines(lines: list[str]) -> str:
    """Return lines of a shell, each without secrets and control characters."""
    return "\n".join(map(plain, lines))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
