from __future__ import annotations

import errno
from datetime import UTC, datetime

import pytest

from sweeper.core.errors import TrialDivergedError
from sweeper.core.trials import Attempt, Failure, FailureKind
from sweeper.driver.workers import classify_lost_worker
from sweeper.study.retry import MAX_RETRY_DELAY_S, MAX_SAME_FAILURES, RetryPolicy
from sweeper.worker.runner import classify_exception

RAY_ON_A_DEAD_WORKER = """The actor died unexpectedly before finishing this task.
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker
unexpectedly exits with a connection error code 2. End of file. There are some potential root causes. (1) The process is
killed by SIGKILL by OOM killer due to high memory usage. (2) ray stop --force is called. (3) ..."""

AT_THE_START = """The actor died because of an error raised in its creation task, ray::Worker.__init__() (pid=1)
  File "actor.py", line 60, in setup
    self._run = TaskRun(job, task)
"""


def after(*kinds: FailureKind, max_failures: int = 3) -> float | None:
    """Return the seconds until the next attempt of a trial whose attempts failed like this, None if there is none."""
    policy = RetryPolicy({}, max_failures)
    for attempt, kind in enumerate(kinds[:-1], 1):
        policy.add(0, Attempt(attempt, kind, "", 0, None, datetime.now(UTC)))
    return policy.retry_delay(0, kinds[-1])


def test_trial_is_retried_up_to_max_failures_with_longer_delays() -> None:
    assert [after(*["crash"] * times) for times in (1, 2, 3, 4)] == [1.0, 2.0, 4.0, None]
    assert after(*["stall"] * 20, max_failures=30) == MAX_RETRY_DELAY_S
    assert after("crash", max_failures=0) is None


def test_different_crashes_count_together() -> None:
    assert after("crash", "stall", "io", max_failures=2) is None


def test_failure_of_the_infrastructure_never_counts() -> None:
    assert after(*["node"] * 50) == 0.0
    assert after(*["driver"] * 50, "crash") == 1.0


@pytest.mark.parametrize("kind", ["memory", "gpu"])
def test_out_of_memory_is_retried_once(kind: FailureKind) -> None:
    assert after(kind) == 1.0
    assert after("crash", kind) == 2.0
    assert after(kind, kind) is None
    assert after(kind, kind, max_failures=9) is None


@pytest.mark.parametrize("kind", ["error", "diverged"])
def test_failure_that_would_repeat_is_not_retried(kind: FailureKind) -> None:
    assert after(kind) is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ImportError("no module named torch"), "error"),
        (ValueError("shapes (2, 3) and (4, 5) not aligned"), "error"),
        (FileNotFoundError("data.csv"), "error"),
        (SystemExit(0), "error"),
        (TrialDivergedError("diverged"), "diverged"),
        (ConnectionResetError("by peer"), "io"),
        (TimeoutError(), "io"),
        (OSError(errno.EIO, "input/output error"), "io"),
        (MemoryError(), "memory"),
        (type("JaxRuntimeError", (RuntimeError,), {})("RESOURCE_EXHAUSTED: Out of memory"), "memory"),
        (type("JaxRuntimeError", (RuntimeError,), {})("INTERNAL: ..."), "error"),
        (type("Silent", (Exception,), {"__str__": lambda self: 1 / 0})("no"), "error"),
        (type("ResourceExhaustedError", (Exception,), {})("OOM when allocating tensor"), "memory"),
    ],
)
def test_exception_is_classified_by_its_cause(error: BaseException, kind: FailureKind) -> None:
    assert classify_exception(error) == kind


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        (RAY_ON_A_DEAD_WORKER, "crash", "its worker died"),
        ("The actor died because its node has died. Node Id: 12ab", "node", "its node was lost"),
        ("the actor's node was preempted: spot reclaimed", "node", "its node was lost"),
        ("Task was killed due to the node running low on memory.", "memory", "ran out of memory"),
        (
            "because of an error raised in its creation task, x\nImportError: no",
            "error",
            "could not start (ImportError",
        ),
        (f"{AT_THE_START}ConnectionResetError: [Errno 104] by peer", "io", "could not start (ConnectionResetError"),
        (
            f"{AT_THE_START}FileNotFoundError: data.csv\nis missing",
            "error",
            "could not start (FileNotFoundError: data.csv)",
        ),
        (f"{AT_THE_START}models.NoSuchModel: gru", "error", "could not start (models.NoSuchModel: gru)"),
        (f"{AT_THE_START}ray.exceptions.ObjectLostError: Failed", "crash", "died while it started (ray.exceptions"),
        (f"{AT_THE_START}", "crash", "died while it started (no reason given)"),
        ("The actor 1e0a is unavailable: RpcError: Socket closed", "crash", "could not be reached"),
        ("", "crash", "its worker died"),
    ],
)
def test_lost_worker_is_classified_by_the_message_of_ray(text: str, kind: FailureKind, words: str) -> None:
    failure = classify_lost_worker(text)
    assert failure.kind == kind and words in failure.reason


def test_five_trials_that_fail_alike_are_a_repeated_failure() -> None:
    policy = RetryPolicy({}, 3)
    for number in range(MAX_SAME_FAILURES):
        assert policy.repeated_failure() is None
        policy.note_end(Failure("error", f"ValueError: {number} is too high (train.py:30)"))
    assert policy.repeated_failure() == "5 trials in a row failed: ValueError: 4 is too high (train.py:30)"


@pytest.mark.parametrize("between", [None, Failure("diverged", "diverged"), Failure("error", "TypeError: None")])
def test_trial_that_ends_otherwise_starts_the_count_again(between: Failure | None) -> None:
    policy = RetryPolicy({}, 3)
    for _ in range(MAX_SAME_FAILURES - 1):
        policy.note_end(Failure("error", "ValueError: too high"))
    policy.note_end(between)
    policy.note_end(Failure("error", "ValueError: too high"))
    assert policy.repeated_failure() is None


def test_trials_that_diverge_are_no_repeated_failure() -> None:
    policy = RetryPolicy({}, 3)
    for _ in range(2 * MAX_SAME_FAILURES):
        policy.note_end(Failure("diverged", "diverged (loss=nan at epoch 2)"))
    assert policy.repeated_failure() is None
