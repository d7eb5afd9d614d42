"""What a sweep needs before its first trial: Ray, its data and Ray Tune. What can wait for each other, does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sweeper.core.trials import Listener
from sweeper.driver.connection.auth import cluster_address, in_thread
from sweeper.driver.stop import RAY_START_GRACE_S, STOPPED_AT_START, StopSignal
from sweeper.worker.task import WorkerContext

if TYPE_CHECKING:
    from sweeper.study.study import SweepStudy


@dataclass(frozen=True)
class Cluster:
    """A cluster that a sweep has joined."""

    connection: ExitStack
    """Closed when the trials have ended."""
    prepared: _Prepared


class _Prepared:
    """The data and the import of Ray Tune, in threads: the process waits for Ray or the disk meanwhile."""

    def __init__(self, context: WorkerContext) -> None:
        self._data = in_thread(context.load_data, "sweeper-data")
        self._import = in_thread(lambda: import_module("sweeper.driver.tune"), "sweeper-import")

    def data(self) -> Any:
        """Wait for both, and return the data; None if the sweep names none."""
        self._import.result()
        return self._data.result()


@contextmanager
def joined_cluster(
    address: str | None, context: WorkerContext, stop: StopSignal, listeners: Sequence[Listener]
) -> Iterator[Cluster | None]:
    """Join the cluster that a sweep runs on, for the block: its workers start while the study is opened.

    Yields:
        The cluster; None if the sweep gets a Ray of its own.
    """
    if cluster_address(address) is None:
        yield None
        return
    from sweeper.driver.connection.cluster import ray_cluster
    from sweeper.driver.connection.node_check import wake_nodes
    from sweeper.study.queue import announce

    announce(listeners, "Joining the Ray cluster.")
    with ExitStack() as connection:
        with stop.exiting(RAY_START_GRACE_S, STOPPED_AT_START):
            connection.enter_context(ray_cluster(address, context.sweep.trainable, stop))
            wake_nodes()
        yield Cluster(connection, _Prepared(context))


@contextmanager
def ray_with_data(
    study: SweepStudy, context: WorkerContext, *, cluster: Cluster | None, stop: StopSignal
) -> Iterator[WorkerContext]:
    """Start Ray for the block, or check the nodes of the cluster; yield the context with its data."""
    from sweeper.driver.capacity import refuse_infeasible_on_cluster
    from sweeper.driver.connection.cluster import close_in_background, ray_cluster
    from sweeper.driver.connection.node_check import check_nodes
    from sweeper.study.compatibility import record_dataset

    with ExitStack() as ray:
        if cluster is None:
            study.announce("Starting Ray.")
        prepared = _Prepared(context) if cluster is None else cluster.prepared
        with stop.exiting(RAY_START_GRACE_S, STOPPED_AT_START):
            ray.enter_context(ray_cluster("local", stop=stop) if cluster is None else cluster.connection.pop_all())
            refuse_infeasible_on_cluster(context.sweep)
            for note in () if cluster is None else check_nodes(context.folder.location):
                study.announce(note)
            data = prepared.data()
            record_dataset(study, data.facts() if data else None)
        yield replace(context, data=data)
        if study.is_done():
            close_in_background(ray.pop_all())
