"""Small trainables for tests, without TensorFlow."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from sweeper.worker.trial import Trial


def climb(params: dict[str, Any], trial: Trial) -> None:
    while trial.step < trial.reports:
        trial.report({"score": params["height"] * (trial.step + 1) / trial.reports})


def climb_together(params: dict[str, Any], trial: Trial) -> None:
    """Begin to report when three trials have begun."""
    folder = Path(params["folder"])
    (folder / f"begun-{trial.number}").touch()
    while len(list(folder.glob("begun-*"))) < 3:
        time.sleep(0.05)
    climb(params, trial)


def descend(params: dict[str, Any], trial: Trial) -> None:
    while trial.step < trial.reports:
        trial.report({"cost": params["height"] + 1 / (trial.step + 1)})


def fail_above_half(params: dict[str, Any], trial: Trial) -> None:
    while trial.step < trial.reports:
        if params["height"] > 0.5 and trial.step == 1:
            raise ValueError("too high")
        trial.report({"score": params["height"]})


def diverge_above_half(params: dict[str, Any], trial: Trial) -> None:
    while trial.step < trial.reports:
        trial.report({"score": float("nan") if params["height"] > 0.5 and trial.step == 2 else params["height"]})


def misname(params: dict[str, Any], trial: Trial) -> None:
    trial.report({"scores": 1.0})


def say_nothing(params: dict[str, Any], trial: Trial) -> None:
    pass


def leave(params: dict[str, Any], trial: Trial) -> None:
    raise SystemExit(0)


def crash_once(params: dict[str, Any], trial: Trial) -> None:
    """Count in a checkpoint; kill the worker before the third report of the first attempt."""
    count = int((trial.checkpoint / "count").read_text()) if trial.checkpoint else 0
    while trial.step < trial.reports:
        if trial.attempt == 1 and trial.step == 2:
            os.kill(os.getpid(), 9)
        count += 1
        trial.report({"score": float(count)}, checkpoint=_writer(count))


def crash_always(params: dict[str, Any], trial: Trial) -> None:
    if params["height"] > 0.5:
        os.kill(os.getpid(), 9)
    climb(params, trial)


def hang_once(params: dict[str, Any], trial: Trial) -> None:
    """Count in a checkpoint; suspend the worker in the first attempt, as a debugger or a dead disk does."""
    count = int((trial.checkpoint / "count").read_text()) if trial.checkpoint else 0
    while trial.step < trial.reports:
        if trial.attempt == 1 and trial.step == 2:
            os.kill(os.getpid(), signal.SIGSTOP)
        count += 1
        trial.report({"score": float(count)}, checkpoint=_writer(count))


def lose_connection_once(params: dict[str, Any], trial: Trial) -> None:
    while trial.step < trial.reports:
        if trial.attempt == 1 and trial.step == 1:
            raise ConnectionResetError("the file server closed the connection")
        trial.report({"score": params["height"], "pid": os.getpid()})


def slow_count(params: dict[str, Any], trial: Trial) -> None:
    """Report every 0.1 s, with a checkpoint each time."""
    count = int((trial.checkpoint / "count").read_text()) if trial.checkpoint else 0
    while trial.step < trial.reports:
        time.sleep(0.1)
        count += 1
        trial.report({"score": params["height"] * count}, checkpoint=_writer(count))


def prune_itself(params: dict[str, Any], trial: Trial) -> None:
    """Report once, and raise what Optuna's callbacks for Keras and Lightning raise."""
    import optuna

    trial.report({"score": params["height"]})
    raise optuna.TrialPruned("not worth it")


def report_process(params: dict[str, Any], trial: Trial) -> None:
    trial.report({"score": params["height"], "pid": os.getpid()})


def report_surroundings(params: dict[str, Any], trial: Trial) -> None:
    """Report whether the data is in shared memory, and whether Ray started the process before it was needed."""
    import ray

    image = trial.data.x_train
    is_shared = not image.flags.owndata and not image.flags.writeable
    is_plain = ray.get_runtime_context().get_runtime_env_string() == "{}"
    trial.report({"score": params["height"], "shared": is_shared, "plain": is_plain, "samples": len(image)})


def report_process_and_fail(params: dict[str, Any], trial: Trial) -> None:
    report_process(params, trial)
    raise ValueError("after all")


def _writer(count: int) -> Any:
    def write(folder: Path) -> None:
        (folder / "count").write_text(str(count))

    return write


def count_and_evaluate(params: dict[str, Any], trial: Trial) -> None:
    while trial.step < trial.reports:
        trial.report({"score": params["height"]}, checkpoint=_writer(trial.step))


def _evaluate(params: dict[str, Any], trial: Trial) -> dict[str, float]:
    Path("evaluated").write_text(f"{trial.checkpoint} {trial.model}")
    if "plain" in params:
        Path("plain").mkdir(exist_ok=True)
        Path("plain/weights").write_text("weights")
        trial.save_model("plain")
    return {"test_score": float(trial.step)}


count_and_evaluate.evaluate = _evaluate  # type: ignore[attr-defined]


def predict_with_mistakes(params: dict[str, Any], trial: Trial) -> None:
    """Report the height; the model is wrong on as many samples, in percent."""
    trial.report({"score": params["height"]}, checkpoint=_writer(1))


def _predict(params: dict[str, Any], trial: Trial) -> Any:
    predicted = trial.data.y_val.copy()
    predicted[: round(100 * params["height"])] += 1
    return predicted


predict_with_mistakes.predict = _predict  # type: ignore[attr-defined]
predict_with_mistakes.evaluate = lambda params, trial: {"test_score": params["height"]}  # type: ignore[attr-defined]


def count_heavily(params: dict[str, Any], trial: Trial) -> None:
    """Save a checkpoint of 1 MB with each report."""

    def write(folder: Path) -> None:
        (folder / "weights").write_bytes(bytes([trial.step]) * 1_000_000)

    while trial.step < trial.reports:
        trial.report({"score": params["height"]}, checkpoint=write)


def tidy(params: dict[str, Any], trial: Trial) -> None:
    try:
        climb(params, trial)
    finally:
        Path("tidied").touch()


def report_text(params: dict[str, Any], trial: Trial) -> None:
    trial.report({"score": "high"})  # type: ignore[dict-item]


def go_on_too_long(params: dict[str, Any], trial: Trial) -> None:
    for _ in range(trial.reports + 5):
        trial.report({"score": 1.0})


def take_long(params: dict[str, Any], trial: Trial) -> None:
    """Report every 30 s."""
    while trial.step < trial.reports:
        trial.report({"score": params["height"]})
        time.sleep(30)


def flood(params: dict[str, Any], trial: Trial) -> None:
    """Report far too many metrics, a name or a message that is far too long, or raise an error without text."""
    kind = params["kind"]
    if kind == "metrics":
        trial.report({f"metric {number}": 1.0 for number in range(100_000)})
    elif kind == "name":
        trial.report({"score": 1.0, "n" * 1_000_000: 1.0})
    elif kind == "message":
        raise ValueError("m" * 5_000_000)
    raise Silent


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def die_of_poison(params: dict[str, Any], trial: Trial) -> None:
    """Kill the worker on a node with SWEEPER_TEST_POISON, unless the file `cure` exists; else do as `slow_count`."""
    if os.environ.get("SWEEPER_TEST_POISON") and not Path(params.get("cure", "/nowhere/at/all")).exists():
        os.kill(os.getpid(), 9)
    slow_count(params, trial)


def hold_gpus(params: dict[str, Any], trial: Trial) -> None:
    """Log the visible GPUs, the share of a GPU, and the times of start and end to a file."""
    began = time.time()
    for _ in range(trial.reports):
        time.sleep(0.3)
        trial.report({"score": params["height"]})
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    line = {"number": trial.number, "gpus": trial.resources.gpus, "seen": seen, "began": began, "ended": time.time()}
    with Path(params["log"]).open("a") as log:
        log.write(json.dumps(line | {"pid": os.getpid()}) + "\n")


def exhaust_gpu(params: dict[str, Any], trial: Trial) -> None:
    """Run out of memory if the share of a GPU is smaller than `needs`."""
    if trial.resources.gpus < params["needs"]:
        raise ResourceExhaustedError("OOM when allocating tensor with shape[4096,4096]")
    trial.report({"score": trial.resources.gpus})


class ResourceExhaustedError(Exception):
    """Error with the same name as TensorFlow's."""


def leave_a_thread(params: dict[str, Any], trial: Trial) -> None:
    """Report the number of the process, after starting a thread that never ends in every second trial."""
    if trial.number % 2 == 0:
        threading.Thread(target=_run_for_ever).start()
    while trial.step < trial.reports:
        trial.report({"score": params["height"], "pid": float(os.getpid())})


def _run_for_ever() -> None:
    while True:
        time.sleep(0.01)


def fit_and_save(params: dict[str, Any], trial: Trial) -> None:
    """Count in checkpoints, and save a model of scikit-learn after the last report."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    count_and_checkpoint(params, trial)
    x = np.array([[0.0], [1.0]])
    trial.save_model(LogisticRegression().fit(x, [0, 1]), example=x)


def return_model(params: dict[str, Any], trial: Trial) -> Any:
    from sklearn.linear_model import LogisticRegression

    count_and_checkpoint(params, trial)
    return LogisticRegression().fit([[0.0], [1.0]], [0, 1])


def return_history(params: dict[str, Any], trial: Trial) -> Any:
    count_and_checkpoint(params, trial)
    return {"score": [params["height"]]}


def count_samples(params: dict[str, Any], trial: Trial) -> None:
    """Save as the model how many samples there are to train on."""
    _save_count(params, trial, trial.data)


def _save_count(params: dict[str, Any], trial: Trial, data: Any) -> None:
    climb(params, trial)
    Path("counted").mkdir(exist_ok=True)
    Path("counted/count").write_text(str(len(data.y_train)))
    trial.save_model("counted")


def _count_again(params: dict[str, Any], trial: Trial) -> None:
    _save_count(params, trial, trial.data.with_validation())


def _tell_count(params: dict[str, Any], trial: Trial) -> dict[str, float]:
    assert trial.model is not None
    return {"test_samples": float((trial.model / "files/count").read_text())}


count_samples.retrain = _count_again  # type: ignore[attr-defined]
count_samples.evaluate = _tell_count  # type: ignore[attr-defined]


def count_and_checkpoint(params: dict[str, Any], trial: Trial) -> None:
    while trial.step < trial.reports:
        trial.report({"score": params["height"]}, checkpoint=_writer(trial.step))


def fail_after_the_last_report(params: dict[str, Any], trial: Trial) -> None:
    count_and_checkpoint(params, trial)
    trial.save_model({"weights": 1})


def save_in_finally(params: dict[str, Any], trial: Trial) -> None:
    """Try to save a model also when the trial is stopped."""
    try:
        count_and_checkpoint(params, trial)
    finally:
        Path("plain").mkdir(exist_ok=True)
        Path("plain/weights").write_text("weights")
        trial.save_model("plain")


def work_ahead(params: dict[str, Any], trial: Trial) -> None:
    """Report how often it went on before the last answer, at most a thousand times."""
    calls: list[float] = []

    def go_on() -> bool:
        time.sleep(0.001)
        calls.append(time.monotonic())
        return len(calls) < 1000

    while trial.step < trial.reports:
        made = len(calls)
        calls.clear()
        trial.report({"score": params["height"], "calls": made}, meanwhile=go_on)


def wait_for_evaluation(params: dict[str, Any], trial: Trial) -> None:
    """Make the last report of trial 1 only when a worker has begun to evaluate a trial, which the file `log` tells."""
    while trial.step < trial.reports:
        while trial.number == 1 and trial.step + 1 == trial.reports and not Path(params["log"]).exists():
            time.sleep(0.05)
        trial.report({"score": params["height"]}, checkpoint=_writer(trial.step))


def _evaluate_at_the_second_attempt(params: dict[str, Any], trial: Trial) -> dict[str, float]:
    """Log the trial; kill the worker if it is the first evaluation of the parameter `dies`."""
    is_first = not Path(params["log"]).exists()
    with Path(params["log"]).open("a") as log:
        log.write(f"{trial.number}\n")
    if is_first and params["dies"]:
        os.kill(os.getpid(), 9)
    return {"test_score": params["height"]}


wait_for_evaluation.evaluate = _evaluate_at_the_second_attempt  # type: ignore[attr-defined]


def report_cpus(params: dict[str, Any], trial: Trial) -> None:
    """Report how many CPUs the trial may use; trial 0 is quick."""
    while trial.step < trial.reports:
        cpus = trial.resources.cpus
        time.sleep(0.01 if trial.number == 0 else 0.2)
        trial.report({"score": params["height"], "cpus": cpus}, checkpoint=_writer(trial.step + 1))


def weigh(params: dict[str, Any], trial: Trial) -> None:
    """Report a score, and with the first report how many parameters that took, as `train_rnn` does."""
    while trial.step < trial.reports:
        size = {"parameters": float(params["width"])} if trial.step == 0 else {}
        score = params["height"] * (1 - 1 / (1 + params["width"])) * (trial.step + 1) / trial.reports
        trial.report({"score": score, **size}, checkpoint=_writer(trial.step + 1))
