"""The start of a sweep on a cluster that runs already: one real node on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from sweeper.core.errors import InputError
from sweeper.core.sweep_folder import SweepFolder
from sweeper.core.trials import Report, TrialRecord
from sweeper.driver.stop import StopSignal
from sweeper.run.start import joined_cluster
from sweeper.run.sweep import run_sweep
from sweeper.spec import Sweep
from sweeper.study.open import read_study
from sweeper.worker.task import WorkerContext


class Phases(list[str]):
    def on_trial(self, row: TrialRecord, report: Report | None) -> None:
        pass

    def on_phase(self, message: str) -> None:
        self.append(message)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield cluster.address
    cluster.shutdown()


def workers() -> list[str]:
    children = psutil.Process().children(recursive=True)
    names = [child.cmdline()[:1] for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [name for (name,) in filter(None, names) if name.startswith("ray::")]


def test_workers_start_and_data_is_loaded_before_the_study_is_open(
    address: str, make_sweep: Callable[..., Sweep]
) -> None:
    sweep, phases = make_sweep(dataset={"type": "digits"}), Phases()
    context = WorkerContext(sweep, SweepFolder.of(None, sweep.name))
    before = len(workers())
    with StopSignal(None) as stop, joined_cluster(address, context, stop, [phases]) as cluster:
        assert cluster is not None and phases == ["Joining the Ray cluster."]
        assert len(cluster.prepared.data().x_train)
        deadline = time.monotonic() + 60
        while len(workers()) == before:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert ray.is_initialized() and not context.folder.path.exists()
    assert not ray.is_initialized()


def test_sweep_runs_on_the_cluster_and_leaves_it(address: str, make_sweep: Callable[..., Sweep]) -> None:
    phases = Phases()
    result = run_sweep(make_sweep(), address=address, insecure=True, listeners=[phases])
    assert result.counts["COMPLETE"] == 6 and result.is_delivered
    assert phases[0] == "Joining the Ray cluster." and "Starting Ray." not in phases
    other = make_sweep(objective={"metric": "score", "direction": "minimize"})
    with pytest.raises(InputError, match="objective"):
        run_sweep(other, address=address, insecure=True)
    assert not ray.is_initialized()
    assert len(read_study("climbing", other.storage).rows()) == 6
