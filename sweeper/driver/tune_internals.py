"""Every private name of Ray Tune that sweeper uses, as of Ray 2.60: one function each, with its reason.

`test_ray_internals.py` fails when a name moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from sweeper.driver.ray_internals import replaced

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.tune.experiment import Trial as TuneTrial


@contextmanager
def skip_runtime_env_and_telemetry() -> Iterator[None]:
    """Save Tune two steps that would delay its start by seconds; Ray 2.60 has no option for either.

    Tune gives its workers an environment with the driver's keys of AWS, which Ray logs; they have that of the driver or
    of their node anyway. Workers with an environment do not start together with Ray, but when requested, and twice.
    Tune also counts callbacks for Ray's telemetry, for which it imports MLflow and every other logger it knows.
    """
    from ray.air._internal import usage
    from ray.tune.execution import class_cache

    with (
        replaced(class_cache, "DEFAULT_ENV_VARS", {}),
        replaced(class_cache, "ENV_VARS_TO_PROPAGATE", set()),
        replaced(usage, "tag_callbacks", lambda callbacks: False),
    ):
        yield


def report_errors_to(record: Callable[[TuneTrial, str], None]) -> AbstractContextManager[None]:
    """Pass to `record`, within the block, why a trial lost its worker, in the place of what Tune does.

    Ray 2.60 gives callbacks only the trial. It writes the error into files, and if their disk is full, the sweep would
    end. It would also restart a trial whose node was preempted by itself.
    """
    from ray.tune.experiment import Trial as TuneTrial

    def handle_error(trial: TuneTrial, error: Exception | None = None) -> None:
        trial.run_metadata.num_failures += 1  # more than `max_failures`, so that Tune does not retry
        record(trial, str(error))

    return replaced(TuneTrial, "handle_error", handle_error)


def unstage(controller: Any, trial: TuneTrial) -> None:
    """Let go of the worker that Tune keeps for a trial stopped while it waited; `stop_trial` of Ray 2.60 keeps it."""
    if trial in getattr(controller, "_staged_trials", ()):
        controller._unstage_trial_with_resources(trial)


def keep_from_reuse(controller: Any, trial: TuneTrial) -> None:
    """Make Tune end the worker of a trial with the trial, instead of giving it the next one.

    Ray 2.60 decides for all trials at once, with `reuse_actors`. It reuses no worker that it does not count as started.
    """
    controller._started_actors.discard(controller._trial_to_actor.get(trial))


def forget_trial(controller: Any, trial: TuneTrial) -> None:
    """Remove a trial that ended from Tune's memory. Ray 2.60 has no public way, and holds every trial to the end."""
    for name in ("_trials", "_stopped_trials", "_failed_trials", "_trials_to_cache"):
        holder: Any = getattr(controller, name, ())
        if trial in holder:
            holder.remove(trial)
    getattr(controller, "_trial_metadata", {}).pop(trial.trial_id, None)


def arrived_answers(controller: Any) -> list[Any]:
    """Return what workers have answered, and Tune has not handled yet. Ray 2.60 handles one answer after the other."""
    import ray

    futures = list(controller._actor_manager._actor_task_events.get_futures())
    ready, _ = ray.wait(futures, num_returns=len(futures), timeout=0) if futures else ([], [])
    answers = []
    for future in ready:
        with suppress(Exception):  # Tune handles it in its turn
            answers.append(ray.get(future))
    return answers


def actor_of(trial: TuneTrial) -> ActorHandle | None:
    """Return the actor that runs a trial of Tune; None while it has none. Ray 2.60 has no public way."""
    return trial.temporary_state.ray_actor


def actor_id_of(trial: TuneTrial) -> str | None:
    """Return the hex id of that actor. Ray 2.60: an actor can ask for its own id, but a handle has no public one."""
    actor = actor_of(trial)
    return None if actor is None else str(actor._actor_id.hex())
