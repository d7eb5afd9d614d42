"""Cases of bad input by kind: names, spaces, runs and the environment."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import optuna

from sweeper.core.trials import Failure
from sweeper.spec import Sweep
from sweeper.spec.yaml_file import parse_value
from sweeper.study.open import open_study
from tests.faults.bad_input import (
    BASE,
    GRID,
    RNN,
    Case,
    budget,
    ended,
    finished,
    height,
    line,
    looking,
    option,
    source,
    space,
)

LONG = "p" * 65
TOO_LONG = f"/tmp/{'x' * 95}"
OUT_OF_RANGE = "must be < 4294967296"
DATACLASS = """\
from dataclasses import dataclass
@dataclass
class P:
    a: int
    height: float
def train(params: P, trial): ...
"""
PYDANTIC = """\
from pydantic import BaseModel
class Params(BaseModel):
    width: int
    height: float = 0
def train(params: Params, trial): ...
"""
GOALS = "objective: [{metric: a}, {metric: b}]"
TWO_GOALS = [{"metric": "score"}, {"metric": "size", "direction": "minimize"}]
TWO_HEIGHTS = "space: {height: {type: float, low: 0, high: 1}, width: {type: float, low: 0, high: 1}}"
ENDLESS = "a grid needs a step for height; add step:"
WANDB = "program: train.py\nmethod: random\nparameters: {height: {min: 0.0, max: 1.0}}\n"


def closed(folder: Path) -> None:
    (folder / "closed").mkdir(mode=0o555)


def others_table(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "trials.db")) as connection:
        connection.execute("CREATE TABLE trials (x)")
        connection.execute("CREATE TABLE runs (x)")


def confirming(message: str, *options: str, outcome: str = "FAIL") -> Case:
    """Return a case of `sweeper confirm` of a sweep x of one trial: it failed, was added, or has not begun."""

    def prepare(_: Path) -> None:
        declared = Sweep.from_mapping(parse_value(BASE) | {"budget": {"trials": 1, "epochs": 2}})
        with open_study(declared) as study:
            if outcome == "FAIL":
                study.fail(study.ask().number, Failure("error", "ValueError: too high"))
        if outcome == "added":
            distribution = optuna.distributions.FloatDistribution(0.0, 1.0)
            added = optuna.create_trial(value=0.5, params={"height": 0.5}, distributions={"height": distribution})
            optuna.load_study(study_name="x", storage="sqlite:///sweeper.db").add_trial(added)

    return Case(message, options=options, path="x", prepare=prepare, verbs=("confirm",))


def data(message: str, **environment: str) -> Case:
    """Return a case of a dataset that is not available in such an environment."""
    asked = line("trainable: sweeper.training:train_rnn\ndataset: {type: mnist}\nspace: {units: 8}", "0")
    return replace(asked, message=message, verbs=("run",), environment=environment)


def data_file(name: str, content: bytes, message: str) -> Case:
    """Return a case of a folder for data with one file."""

    def prepare(folder: Path) -> None:
        (folder / "data").mkdir()
        (folder / "data" / name).write_bytes(content)

    return replace(data(message, SWEEPER_DATA_DIR="data", KERAS_HOME="/proc/none"), prepare=prepare)


def command(text: str, message: str) -> Case:
    """Return a case of a command; a script train.py is there."""
    return replace(
        line(f"trainable: {{command: {text}}}", message), prepare=lambda folder: (folder / "train.py").touch()
    )


def linked(name: str) -> Callable[[Path], None]:
    """Return a function that makes a folder of a sweep with a link in it."""

    def prepare(folder: Path) -> None:
        (folder / "own").mkdir()
        (folder / "own" / name).symlink_to(folder)

    return prepare


def promoted(message: str, *arguments: str, prepare: Callable[[Path], None]) -> Case:
    """Return a case of `sweeper promote`."""
    return Case(message, path="x", options=arguments, prepare=prepare, verbs=("promote",))


def compared(first: str, *others: str, message: str) -> Case:
    """Return a case of `sweeper compare` beside a sweep called x without trials."""
    return Case(message, path=first, options=others, prepare=finished(), verbs=("compare",))


def report(file: str, message: str) -> Case:
    """Return a case of a file that `sweeper report` is to write."""
    return Case(message, path="x", options=("-o", file), verbs=("report",))


def cluster(url: str, message: str) -> Case:
    """Return a case of a cluster whose sweeps are to be read."""
    return Case(f"--storage: {url} {message}", options=("--storage", url), path="x", verbs=("show", "watch", "fetch"))


def rayjob(content: str, message: str) -> Case:
    """Return a case of a file for `submit --rayjob`."""

    def prepare(folder: Path) -> None:
        (folder / "mine.yaml").write_text(content)

    options = ("--backend", "kuberay", "--dry-run", "--rayjob", "mine.yaml")
    return Case(message, options=options, prepare=prepare, verbs=("submit",))


SWEEPS: dict[str, list[Case]] = {
    "an empty name": [
        line('name: ""', "1:1  name: is empty; give it a name"),
        option("--name", "", "sweep.yaml  --name: is empty"),
    ],
    "a name with a path in it": [
        line(
            "name: ../x",
            "1:1  name: '../x' must be letters a-z, digits, '.', '_' and '-', and begin with a letter or digit; try x",
        ),
        line("name: /etc", "1:1  name: '/etc' must"),
        option("--name", "a/b", "sweep.yaml  --name: 'a/b' must be letters"),
    ],
    "a long name": [
        line(f"name: {LONG}", "1:1  name: has 65 characters; at most 64 are allowed"),
        space(f"{LONG}: 1", f"5:9  space.{LONG}: is longer than 64"),
        line(f"tracking: {{model: {LONG}}}", "6:12  tracking.model: "),
    ],
    "characters that control the terminal": [
        line('name: "a\\u202eb"', r"1:1  name: 'a\u202eb' must be letters"),
        line('name: "\\e[31mx"', r"1:1  name: '\x1b[31mx' must"),
        space('"\\e[0m": 1', r"5:9  space.'\x1b[0m': "),
        option("--name", "a\x07", r"sweep.yaml  --name: 'a\x07' must be letters"),
    ],
    "a reserved name": [
        line("name: con", "1:1  name: 'con' is reserved on some systems; choose another"),
        line("name: ..", "1:1  name: '..' must be"),
        line("name: NUL.txt", "1:1  name: 'NUL.txt' is reserved"),
    ],
    "a name taken by another sweep": [
        Case("sweep 'x'", prepare=finished(space={"height": 1}), verbs=("run",)),
        Case("sweep 'x'", prepare=finished(objective={"metric": "loss"}), verbs=("run",)),
    ],
    "several goals": [
        line("objective: [{metric: a}, {metric: a}]", "3:27  objective[1].metric: 'a' is a goal already; name each"),
        line("objective: [{metric: a}]", "3:1  objective: a list holds 2 to 5 goals, and this one 1; for a single one"),
        line(f"{GOALS}\nprune_on: c", "6:1  prune_on: 'c' is no metric of objective. One of: a, b."),
        line(
            f"{GOALS}\npruner: {{type: median}}",
            "6:10  pruner.type: a pruner judges by one goal, and objective lists 2; name it, as in prune_on: a; or "
            "choose type: none",
        ),
        line(f"{GOALS}\nprune_on: a\npruner: {{type: hyperband}}", "7:10  pruner.type: hyperband needs a single"),
        line(f"{GOALS}\nsampler: {{type: cmaes}}\n{TWO_HEIGHTS}", "6:11  sampler.type: cmaes searches for one goal"),
        Case(
            "--front: sweep 'x' has one goal, score",
            path="x",
            options=("--front",),
            prepare=ended(0.5),
            verbs=("best",),
        ),
        Case("sweep 'x'", BASE + "prune_on: score\n", prepare=finished(objective=TWO_GOALS), verbs=("run",)),
    ],
    # the search space
    "an empty space": [
        line("space: {}", "5:1  space: is empty; give at least one value"),
        line("space:", "5:1  space: is null"),
    ],
    "low above high": [
        height("type: int, low: 64, high: 32", "5:29  space.height.low: 64 is above high: 32; swap them"),
        height("type: float, low: 1, high: 0.5", "5:31  space.height.low: 1.0 is above"),
    ],
    "a logarithm of zero or less": [
        height(
            "type: float, low: 0, high: 1, log: true",
            "5:31  space.height.low: 0.0 must be > 0 with log: true; try 1e-5",
        ),
        height("type: int, low: -1, high: 1, log: true", "5:29  space.height.low: -1 must be > 0"),
    ],
    "an invalid step": [
        height(
            "type: int, low: 1, high: 32, step: 2",
            "5:47  space.height.step: steps of 2 from 1 do not reach 32; use high: 31",
        ),
        height("type: int, low: 1, high: 32, step: 0", "5:47  space.height.step: 0 must be > 0"),
        height("type: float, low: 0, high: 1e30, step: 1e-5", "5:51  space.height.step: 1e-05 is too small"),
    ],
    "no choices": [
        height("type: categorical, choices: []", "5:37  space.height.choices: is empty; give at least one value"),
        height("type: categorical", "5:9  space.height.choices: is missing"),
    ],
    "a choice given twice": [
        height(
            "type: categorical, choices: [8, 8]",
            "5:50  space.height.choices[1]: 8 is repeated; give each value once",
        ),
        height("type: categorical, choices: [a, b, a]", "5:53  space.height.choices[2]: 'a' is repeated"),
    ],
    "choices of several kinds": [
        height(
            'type: categorical, choices: [1, "1"]',
            "5:37  space.height.choices: mixes numbers and text; use one kind (in quotes, every value is text)",
        ),
        height("type: categorical, choices: [true, 2]", "5:37  space.height.choices: mixes numbers and true/false"),
    ],
    "a parameter that the trainable does not take": [
        line(RNN + "space: {unit: 32}", "5:9  space.unit: RNNParams has no such hyperparameter. Did you mean 'units'?"),
        line(RNN + "space: {cell: lstmm}", "5:9  space.cell: 'lstmm' is not known. Did you mean 'lstm'?"),
    ],
    "a parameter of the trainable without a value": [
        source(DATACLASS, "5:1  space: a is missing; P needs a value for it"),
        source(PYDANTIC, "5:1  space: width is missing; Params needs a value for it", module="ours"),
    ],
    "an impossible condition": [
        height(
            "type: int, low: 1, high: 9, when: {depth: 2}",
            "5:53  space.height.when.depth: there is no parameter 'depth' in this space",
        ),
        space(
            "a: {type: int, low: 0, high: 1, when: {b: 0}}, b: {type: int, low: 0, high: 1, when: {a: 0}}",
            "5:41  space.a.when: the conditions form a circle: a <- b <- a; remove one of them",
        ),
        space("a: 1, b: {type: int, low: 0, high: 1, when: {a: 2}}", "5:54  space.b.when.a: a is never 2, only 1"),
    ],
    "a grid without steps": [
        line(GRID, f"6:11  sampler.type: {ENDLESS}"),
        line(
            GRID + "space: {a: {type: float, low: 1, high: 9, log: true}}",
            "6:11  sampler.type: a grid needs a step for a",
        ),
    ],
    "a grid of too many points": [
        line(
            GRID + "space: {a: {type: int, low: 1, high: 1000000}, b: {type: int, low: 1, high: 1000000}}",
            "6:11  sampler.type: the grid has 1,000,000,000,000 points, more than 10,000; choose type: qmc",
        ),
        line(
            GRID
            + "space: {"
            + ", ".join(f"p{i}: {{type: int, low: 0, high: 9007199254740992}}" for i in range(500))
            + "}",
            "6:11  sampler.type: the grid has too many points",
        ),
    ],
    # the run
    "no trials": [
        line("budget: {trials: 0, epochs: 1}", "4:10  budget.trials: 0 must be >= 1"),
        line("budget: {trials: 1.5, epochs: 1}", "4:10  budget.trials: 1.5 must be a whole number"),
        option("--trials", "0", "sweep.yaml  --trials: 0 must be >= 1"),
        option("--trials", "-1", "sweep.yaml  --trials: -1 must be >= 1"),
    ],
    "no parallel trials, or too many": [
        budget("parallel: 4", "4:32  budget.parallel: 4 is more than the sweep's 3 trials; use 3, or auto"),
        budget("parallel: 0", "4:32  budget.parallel: 0 must be >= 1 or auto"),
        option("--parallel", "0", "sweep.yaml  --parallel: 0 must be"),
        option("--parallel", "many", "sweep.yaml  --parallel: 'many' must be a whole number or auto"),
    ],
    "resources that cannot be given": [
        line(
            "resources: {gpus: 1.5}",
            "6:13  resources.gpus: 1.5 GPUs cannot be given; use a share below 1, or whole GPUs: 2",
        ),
        line("resources: {cpus: -1}", "6:13  resources.cpus: -1 must be >= 0.0001"),
        line("resources: {cpus: .nan}", "6:13  resources.cpus: nan must be a finite"),
        option("--cpus", "0", "sweep.yaml  --cpus: 0 must be >= 0.0001"),
        option("--gpus", "nan", "sweep.yaml  --gpus: there is no parameter 'nan' in the space"),
    ],
    "resources that Ray cannot count": [
        line(
            "resources: {custom: {CPU: 1}}",
            "6:22  resources.custom.CPU: Ray counts CPU itself; use resources.cpus",
        ),
        line("resources: {custom: {memory: 1}}", "6:22  resources.custom.memory: Ray counts memory itself"),
        line(
            "resources: {gpus: 0.00001}", "6:13  resources.gpus: 1e-05 is too small to be counted; use 0, or at least"
        ),
        option("--cpus", "1e-9", "sweep.yaml  --cpus: 1e-09 must be >= 0.0001"),
    ],
    "a duration that cannot be read": [
        budget(
            "timeout: 10 mins",
            "4:32  budget.timeout: '10 mins' is not a duration; write 10m (units d, h, m, s, as in 1h30m)",
        ),
        budget("timeout: -5s", "4:32  budget.timeout: '-5s' is not a duration"),
        budget("timeout: 0s", "4:32  budget.timeout: 0.0 must be > 0"),
        option("--timeout", "10 mins", "sweep.yaml  --timeout: '10 mins' is not a duration; write 10m"),
    ],
    "no metric, or no direction": [
        line('objective: {metric: ""}', "3:13  objective.metric: '' is not a name of a metric"),
        line(
            "objective: {metric: score, direction: up}",
            "3:28  objective.direction: 'up' is not known. One of: maximize, minimize",
        ),
        line("objective: {metric: 5}", '3:13  objective.metric: 5 must be text; write "5"'),
    ],
    "a sampler or pruner that does not fit": [
        line(
            "pruner: {type: hyperband, min_epochs: 8}",
            "6:27  pruner.min_epochs: judges from report 8 on, but a trial has 2",
        ),
        line(
            "sampler: {type: cmaes}",
            "6:11  sampler.type: cmaes searches float and int parameters without when, and needs two",
        ),
        line(
            "pruner: {type: median, min_epochs: 1}\nbudget: {trials: 3, steps: 9}",
            "6:24  pruner.min_epochs: counts epochs, but the budget counts steps",
        ),
    ],
    "a seed out of range": [
        line("seed: 4294967296", f"6:1  seed: 4294967296 {OUT_OF_RANGE}"),
        line("seed: -1", "6:1  seed: -1 must be >= 0"),
        option("--seed", "99999999999", f"sweep.yaml  --seed: 99999999999 {OUT_OF_RANGE}"),
        option("--seed", "one", "sweep.yaml  --seed: 'one' must be a whole number"),
    ],
    # the environment
    "an invalid address": [
        line("storage: postgres://h/d", "6:1  storage: has an unknown scheme 'postgres'. Did you mean 'postgresql'?"),
        line("storage: postgresql://h:99999/d", "6:1  storage: is no URL; is the port a number from 1 to 65535?"),
        line("tracking: {uri: 'http://'}", "6:12  tracking.uri: names no host"),
        option("--tracking-uri", "ftp://x", "--tracking-uri: has an unknown scheme 'ftp'"),
        option("--tracking-uri", "http://h:99999", "--tracking-uri: is no URL"),
        option("--address", "nonsense", "--address: names no port; write host:6379"),
        option("--address", "http://h:1", "--address: has an unknown scheme"),
        option("--address", "ray://h:10001", "--address: is that of Ray's client, through which no sweep can run"),
        replace(
            option("--parallel", "1", "the address of the Ray cluster (RAY_ADDRESS, if --address is not given) has an"),
            environment={"RAY_ADDRESS": "http://h:1"},
        ),
        option("--storage", "postgresql+nothing://h/d", "the database of studies has no driver here"),
    ],
    "an address of MLflow that cannot work": [
        line(
            "tracking: {uri: 'file:///data/x'}",
            "6:12  tracking.uri: names a folder, where MLflow no longer keeps runs; use sqlite:////data/x/mlflow.db",
        ),
        line("tracking: {uri: '127.0.0.1:5000'}", "6:12  tracking.uri: has no scheme; write http://127.0.0.1:5000"),
        line("tracking: {uri: databricks-uc}", "6:12  tracking.uri: is the address of a registry of models"),
        option("--tracking-uri", "sqlite://m.db", "--tracking-uri: needs three slashes before the path of the file"),
        option("--tracking-uri", "sqlite:///:memory:", "--tracking-uri: names no file"),
        option("--tracking-uri", "http://h:5000/#/runs", "--tracking-uri: has a part after '?' or '#'"),
        option("--tracking-uri", "databricks://none", "MLflow at databricks://none needs credentials"),
        option(
            "--tracking-uri", "postgresql+nothing://h/d", "MLflow's database postgresql+nothing://h/d has no driver"
        ),
        option("--tracking-uri", "sqlite:///sweep.yaml", "MLflow cannot use "),
    ],
    "a database that is another program's": [
        replace(
            option(
                "--storage", "sqlite:///trials.db", "sqlite:///trials.db cannot hold studies: its tables trials are"
            ),
            prepare=others_table,
        ),
        replace(option("--tracking-uri", "sqlite:///trials.db", "MLflow cannot use "), prepare=others_table),
        option("--storage", "sqlite:///sweep.yaml", "sqlite:///sweep.yaml cannot hold studies: it is a file, but no"),
        option("--tracking-uri", "sqlite:///sweeper.db", "the study and MLflow cannot use one database"),
    ],
    "an unknown option of a database": [
        option(
            "--storage",
            "postgresql+psycopg://h/d?conect_timeout=5",
            "the database of studies has an unknown option 'conect_timeout'. Did you mean 'connect_timeout'?",
        ),
        option("--storage", "sqlite:///x.db?timeout=5", "sweep.yaml  --storage: has options after '?', but"),
    ],
    "a script in the place of a function": [
        line(
            "trainable: train.py", "2:1  trainable: 'train.py' is no function; to run a script, write {command: 'python"
        ),
        line(
            'trainable: "python train.py --lr {lr}"',
            "2:1  trainable: 'python train.py --lr {lr}' is no function; to run",
        ),
        line("trainable: [python, train.py]", "2:1  trainable: is a list; write {command: ['python', 'train.py']}"),
    ],
    "a command that needs a shell": [
        command('"python train.py > log"', "2:13  trainable.command: has >, which only a shell reads; write [sh, -c, "),
        command(
            '"LR=1 python train.py"', "2:13  trainable.command: begins with LR=1, which only a shell reads; write env: "
        ),
        command('"python train.py ${height}"', "2:13  trainable.command: has ${height}; a placeholder is {height}"),
    ],
    "an unknown placeholder": [
        command(
            '"python train.py {hight}"', "2:13  trainable.command: there is no parameter 'hight' in this space. Did you"
        ),
        command(
            '[python, train.py, "{hight}"]', "2:41  trainable.command[2]: there is no parameter 'hight' in this space."
        ),
    ],
    "a program or a script that does not exist": [
        command('"python trian.py {height}"', "2:13  trainable.command: there is no file 'trian.py' in "),
        command('"pyhton train.py {height}"', "2:13  trainable.command: there is no program 'pyhton' in PATH"),
        command('"python train.py {height}", folder: none', "2:50  trainable.folder: there is no folder "),
    ],
    "a key of another tool": [
        line("n_trials: 3", "6:1  n_trials: unknown key. Write budget: {trials: 3}"),
        line("method: bayes", "6:1  method: unknown key. Write sampler: {type: tpe}"),
        line(
            "objective: {metric: loss, goal: minimize}",
            "3:27  objective.goal: unknown key. Write objective: {direction: ",
        ),
    ],
    "a parameter as another tool writes it": [
        height(
            "values: [1, 2]", "5:9  space.height: is written as in another tool; write {type: categorical, choices: ["
        ),
        height(
            "min: 0.5, max: 1",
            "5:9  space.height: is written as in another tool; write {type: float, low: 0.5, high: 1}",
        ),
        height(
            "type: loguniform, lower: 0.1, upper: 1",
            "5:9  space.height: is written as in another tool; write {type: fl",
        ),
    ],
    "a sweep of W&B": [
        Case("sweep.yaml  is a sweep of W&B; write it as a sweep file with: sweeper convert sweep.yaml", WANDB),
        Case("sweep.yaml:2:1  method: unknown key. Write sampler: {type: random}", WANDB),
    ],
    "a missing or invalid trainable": [
        line("trainable: no.where:train", "2:1  trainable: there is no module 'no.where' in "),
        line(
            "trainable: tests.samples:climp",
            "2:1  trainable: module 'tests.samples' has no function 'climp'. Did you mean 'climb'?",
        ),
        source("def train(:\n", "2:1  trainable: "),
        source("train = 5\n", "2:1  trainable: the name in module 'mine' is not a plain function (line 1)"),
        line("trainable: train_rnn", "2:1  trainable: 'train_rnn' must be package.module:function"),
    ],
    "a file that hides a library": [
        source("def train(p, t): ...\n", "2:1  trainable: random.py in ", module="random"),
        source("def train(p, t): ...\n", "2:1  trainable: keras.py in ", module="keras"),
    ],
    "missing data": [
        data("mnist: SWEEPER_DATA_DIR is /nowhere, and there is no such folder", SWEEPER_DATA_DIR="/nowhere"),
        data("mnist is not here, and cannot be kept in /proc/none", KERAS_HOME="/proc/none"),
    ],
    "data that is damaged, or something else": [
        data_file(
            "mnist.npz", b"<!DOCTYPE html>", "mnist cannot be used: data/mnist.npz is no .npz file, but a web page"
        ),
        data_file(
            "mnist.npz", b"PK", "mnist cannot be used: data/mnist.npz is no .npz file, but a zip file that is cut"
        ),
        data_file("labels.csv", b"", "mnist is not here, and cannot be kept in /proc/none"),
    ],
    "a link in the folder of a sweep": [
        replace(option("--dir", "own", "cannot use "), prepare=linked("trials")),
        replace(option("--dir", "own", "cannot use "), prepare=linked("champion")),
    ],
    "a file or folder that cannot be written": [
        replace(option("--dir", "closed/x", "cannot write to "), prepare=closed, is_root=False),
        option("--dir", "sweep.yaml", "cannot write to "),
        option("--dir", "/proc/x", "cannot write to /proc/x (No such file or directory); choose another with --dir"),
        option("--dir", "", "--dir: is empty"),
        option("--dir", "file://host/x", "--dir file://host/x is no folder that nodes share"),
        option("--dir", "local://host/x", "--dir local://host/x is no folder that nodes share"),
        option("--dir", "memory://x", "--dir memory://x is no folder that nodes share"),
        option("--dir", "file:/x", "--dir: is no URL (file:/x); write the path alone, or file:///path"),
        replace(
            option("--parallel", "1", f"RAY_TMPDIR, {TOO_LONG}, is too long"), environment={"RAY_TMPDIR": TOO_LONG}
        ),
        option("--storage", "sqlite:////proc/x/s.db", "cannot write to /proc/x "),
        option(
            "--storage", "sqlite:///.", "cannot write to . (it is a folder); choose another database with --storage"
        ),
        option("--tracking-uri", "sqlite:////proc/x/m.db", "cannot write to /proc/x "),
    ],
    "a plan that cannot be made": [
        Case("--trials +3: give a total here", options=("--trials", "+3"), verbs=("plan",)),
        Case("Invalid value for '--measure'", options=("--measure", "-1"), verbs=("plan",)),
        Case("each trial needs 1 CPU and 700 GPU; this machine has", options=("--gpus", "700"), verbs=("plan",)),
    ],
    "what cannot be compared": [
        compared(
            "x:0",
            "x",
            message="x:0 is a trial and x a whole sweep. Name trials only, as in x:0 x:NUMBER, or sweeps only",
        ),
        compared("x:0", "x:0", message="x:0 is named twice"),
        compared("x:0", "x:1", message="sweep 'x' has no trial 0; none of its trials has started"),
        compared("x", "y", message="no sweep 'y' in sqlite:///sweeper.db; there are: x"),
        compared("x", message="name at least two trials, as in `sweeper compare lstm:3 lstm:7`, or two sweeps"),
    ],
    "a secret in plain text": [
        line(
            "storage: postgresql://u:hunter2@h/d",
            "6:1  storage: has a password in clear; put it in an environment variable and write ${env:NAME}",
        ),
        line("storage: postgresql://h/d?password=hunter2", "6:1  storage: has a password"),
        line("tracking: {uri: 'https://u:hunter2@h'}", "6:12  tracking.uri: has a password"),
        option("--tracking-uri", "http://u:hunter2@h", "--tracking-uri: has a password in clear"),
        option("--dir", "file://u:hunter2@h/x", "--dir: has a password or a key in clear"),
        option("--dir", "s3://bucket/x?access_key=A&secret_key=hunter2", "--dir: has a password or a key in clear"),
    ],
    "a password whose characters are not quoted": [
        line("storage: postgresql://u:p@hunter2@h/d", "6:1  storage: is no URL that can be read in one way only"),
        line("tracking: {uri: 'https://u:p/hunter2@h'}", "6:12  tracking.uri: is no URL that can be read"),
        Case(
            "the database of studies is no URL that can be read in one way only",
            options=("--storage", "${env:DATABASE}"),
            verbs=("run",),
            environment={"DATABASE": "postgresql://u:p#hunter2@h/d"},
        ),
    ],
    "a sweep or a trial that does not exist": [
        looking("no sweep 'y' in sqlite:///sweeper.db", name="y"),
        looking("sweep 'x' has no trial 7; none of its trials has started", "7"),
        looking("'last' is not the number of a trial. Name the first trial of sweep 'x' as `x 0` or as `x:0`", "last"),
    ],
    "a question about trials that cannot be answered": [
        looking("--where 'hight > 1', column 1: there is no parameter or column 'hight'", "--where", "hight > 1"),
        looking(
            "--where \"height > 'a'\", column 1: height (a number) and 'a' (text) cannot be compared",
            "--where",
            "height > 'a'",
        ),
        looking("--where 'height ** 2', column 1: 'height ** 2' is not allowed", "--where", "height ** 2"),
        looking("--sort 'hight': there is no such column. Did you mean 'height'?", "--sort", "hight"),
        looking("--state 'failed': there is no such state. Did you mean 'FAIL'?", "--state", "failed"),
    ],
    "a model that cannot be promoted": [
        promoted(
            "--retrain: tests.samples:climb has no `retrain`, and sweeper does not know how it uses its data",
            "--retrain",
            prepare=ended(0.5),
        ),
        promoted(
            "--retrain: sweeper does not know how a command splits its data, so it cannot retrain one",
            "--retrain",
            prepare=ended(0.5, trainable={"command": "true {height}"}),
        ),
        promoted("no trial of sweep 'x' has completed yet, so none has left a model", prepare=ended()),
        promoted(
            "the model of trial 0 is gone: only the best trial's is kept, and trial 1 was better, so it was deleted at",
            "0",
            prepare=ended(0.5, 0.9, 0.4),
        ),
        promoted("trial 0 has left no model: its trainable called neither", prepare=ended(0.5, 0.4, 0.3)),
    ],
    "a report that cannot be written": [
        report(
            "sweep.yaml", "sweep.yaml exists, and is no report of sweeper. Remove it, or choose another file with -o"
        ),
        report("none/r.html", "cannot write to none/r.html (there is no folder none)"),
        report(".", "cannot write to . (it is a folder); choose another file with -o"),
    ],
    "a RayJob that cannot run a sweep": [
        rayjob("kind: ConfigMap\n", "--rayjob: mine.yaml holds no RayJob. Begin with k8s/base/rayjob.yaml, or with"),
        rayjob("kind: [\n", "--rayjob: mine.yaml, line 2 is not YAML"),
        rayjob(
            "{apiVersion: ray.io/v1, kind: RayJob, metadata: {name: a}, spec: {submissionMode: HTTPMode}}",
            "--rayjob: mine.yaml: spec.submissionMode must be K8sJobMode",
        ),
    ],
    "an address of a cluster that cannot be read": [
        cluster("k8s://", "names no namespace of Kubernetes; write k8s://NAMESPACE or k8s://CONTEXT@NAMESPACE"),
        cluster("k8s://@team", "names no context before '@'"),
        cluster("k8s://Team_A", "names no namespace of Kubernetes"),
    ],
    "a confirmation that makes no sense": [
        confirming("no trial of sweep 'x' is COMPLETE (1 failed), so there is nothing to confirm"),
        confirming("the COMPLETE trials of sweep 'x' were added to the study with their values", outcome="added"),
        confirming("0 of 1 trials of sweep 'x' have ended, and only a whole search can be confirmed", outcome="none"),
        confirming("Invalid value for '--top': Input should be greater than or equal to 1", "--top", "0"),
        confirming("Invalid value for '--seeds': Input should be greater than or equal to 2", "--seeds", "1"),
        replace(confirming("no sweep 'y' in sqlite:///sweeper.db", outcome="none"), path="y"),
        line("confirm: {top: 0}", "6:11  confirm.top: 0 must be >= 1"),
        line("confirm: {seeds: 1}", "6:11  confirm.seeds: 1 must be >= 2"),
        line("confirm: 3", "6:1  confirm: 3 must be a mapping"),
        line(
            "space: {height: {type: float, low: 0, high: 1}, seed: 1}\nconfirm: {}",
            "6:1  confirm: space.seed gives each run of a trial the same seed; leave one of them out",
        ),
    ],
}
