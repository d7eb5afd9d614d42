"""The nodes of the Ray cluster: how many trials fit on them, and which are excluded because attempts die there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray

from sweeper.core.errors import CapacityError
from sweeper.core.trials import FailureKind
from sweeper.driver.bridge import AttemptId
from sweeper.driver.capacity import ResourceRequest, can_autoscale, describe_shortage, trials_that_fit
from sweeper.driver.ray_internals import draining_nodes, node_of_actor
from sweeper.worker.task import Task

MAX_DEATHS_PER_NODE = 3
"""Attempts that may die in a row on a node before their first report; then the node is excluded."""


MAX_WAIT_FOR_NODE_S = 600.0
"""Longest wait for a node that can run a waiting trial; then the run ends, and can be resumed."""


QUIET_WAIT_S = 10.0
"""Longest wait that is not announced."""


MAX_LOOP_TURN_S = 5.0
"""Longest normal turn of Tune's loop. A longer one means that the driver was blocked."""


REFRESH_INTERVAL_S = 1.0
"""Interval between two queries for the live nodes."""


_BLAMED_ON_NODE: tuple[FailureKind, ...] = ("crash", "stall", "memory")
"""Kinds of failure that a broken node may cause."""


class Nodes:
    """The live nodes of the cluster, as far as a running sweep needs them."""

    def __init__(self, demands: Sequence[ResourceRequest], announce: Callable[[str], None]) -> None:
        self._demands = demands
        self._can_autoscale = can_autoscale()
        self._announce = announce
        self._alive: dict[str, dict[str, Any]] = {}
        self._draining: set[str] = set()
        self._refreshed = -REFRESH_INTERVAL_S
        self._nodes_of_actors: dict[str, str] = {}
        self._deaths: dict[str, list[AttemptId]] = {}
        self._excluded: set[str] = set()
        self._waited_s = 0.0
        self._last_check = time.monotonic()
        self._is_announced = False

    def alive(self) -> dict[str, dict[str, Any]]:
        """Return the live nodes by their id, at most `REFRESH_INTERVAL_S` old."""
        if time.monotonic() - self._refreshed >= REFRESH_INTERVAL_S:
            self._refreshed = time.monotonic()
            self._alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
            self._draining = draining_nodes()
        return self._alive

    def excluded_for(self, request: ResourceRequest) -> list[str]:
        """List the nodes where no trial with this request may run; never all of those that could run it."""
        if not self._excluded:
            return []
        able = {node for node, found in self.alive().items() if trials_that_fit(request, found["Resources"])}
        return sorted(able & self._excluded) if able - self._excluded else []

    def room(self) -> int:
        """Count the trials that can run at once, if each makes the smallest of the possible requests."""
        return max(
            sum(trials_that_fit(request, node["Resources"]) for node in self.alive().values())
            for request in self._demands
        )

    def shortage(self) -> str:
        """Say why no trial can run now."""
        return describe_shortage(self._demands, [node["Resources"] for node in self.alive().values()])

    def has_room(self, handed_out: Sequence[ResourceRequest], parallel: int | None) -> bool:
        """Return whether another trial fits. With an autoscaler, more are handed out: it adds nodes for waiting trials.

        Args:
            handed_out: the requests of the trials that run, or wait for a node.
            parallel: the trials that the user wants at a time; None: as many as fit.
        """
        if not handed_out:
            return True
        if parallel is not None and len(handed_out) >= parallel:
            return False
        free = {id: dict(node["Resources"]) for id, node in self.alive().items()}
        placed = sum(self._take(request, free) for request in handed_out)
        if self._can_autoscale:
            return parallel is not None or len(handed_out) < 2 * placed
        return placed == len(handed_out) and any(self._take(request, free) for request in self._demands)

    def _take(self, request: ResourceRequest, free: dict[str, dict[str, float]]) -> bool:
        """Subtract a request from the first node where it fits; return False if there is none."""
        excluded = self.excluded_for(request)
        for id, node in free.items():
            if id not in excluded and trials_that_fit(request, node):
                node.update({kind: node.get(kind, 0) - n for kind, n in request.items()})
                return True
        return False

    def node_of_actor(self, actor: str | None) -> str | None:
        """Return the id of the node of a worker, dead or alive; None if it never had one."""
        if actor is not None and actor not in self._nodes_of_actors:
            self._nodes_of_actors[actor] = node_of_actor(actor)
        return self._nodes_of_actors.get(actor or "") or None

    def name(self, node: str) -> str:
        """Return the name of a node for people: Ray's, or the first 8 digits of its id if it is lost."""
        return str(self._alive[node]["NodeName"]) if node in self._alive else node[:8]

    def hostname(self, node: str | None) -> str | None:
        """Return the host name of a node, which the study records; None if it is lost."""
        return self._alive[node]["NodeManagerHostname"] if node in self._alive else None

    def mark_healthy(self, node: str | None) -> None:
        """Reset the deaths on a node, because a trial has reported from it."""
        self._deaths.pop(node or "", None)

    def record_death(
        self, node: str, attempt: AttemptId, kind: FailureKind, request: ResourceRequest
    ) -> list[AttemptId]:
        """Record that an attempt ended on a node before its first report; exclude the node if that happens too often.

        Returns:
            The attempts that failed because of the node, and not of their trial; none, unless the node is excluded.
        """
        others = [found for id, found in self.alive().items() if id not in self._excluded | {node}]
        if kind not in _BLAMED_ON_NODE or not any(trials_that_fit(request, other["Resources"]) for other in others):
            return []
        if node in self._excluded:
            return [attempt]
        dead = self._deaths.setdefault(node, [])
        dead.append(attempt)
        if len(dead) < MAX_DEATHS_PER_NODE:
            return []
        self._excluded.add(node)
        self._announce(
            f"Node {self.name(node)} gets no more trials: {len(dead)} attempts in a row died on it before their first "
            "report."
        )
        return self._deaths.pop(node)

    def is_lost(self, node: str | None) -> bool:
        """Return whether Ray lost a node or is draining it, such as a spot machine that is taken back."""
        return node is not None and (node not in self.alive() or node in self._draining)

    def wait_for_room(self, waiting: Sequence[ResourceRequest]) -> None:
        """Check that some live node can run a waiting trial. Call it on every turn of the loop.

        Raises:
            CapacityError: for `MAX_WAIT_FOR_NODE_S`, no node was able to run any of them.
        """
        passed = min(time.monotonic() - self._last_check, MAX_LOOP_TURN_S)  # a longer turn was no wait for a node
        self._last_check = time.monotonic()
        nodes = self.alive().values()
        if not waiting or any(trials_that_fit(request, node["Resources"]) for request in waiting for node in nodes):
            if self._is_announced:
                self._announce("The sweep continues.")
            self._waited_s, self._is_announced = 0.0, False
            return
        self._waited_s += passed
        if self._waited_s > MAX_WAIT_FOR_NODE_S:
            raise CapacityError(
                f"For {MAX_WAIT_FOR_NODE_S / 60:g} minutes, no node was able to run any waiting trial (waiting: "
                f"{len(waiting)}). Progress is saved; run the same command again to resume."
            )
        if self._waited_s > QUIET_WAIT_S and not self._is_announced:
            self._is_announced = True
            self._announce(
                f"No node can run any waiting trial (waiting: {len(waiting)}). The sweep waits up to "
                f"{MAX_WAIT_FOR_NODE_S / 60:g} minutes for a node."
            )


class Room:
    """Answers whether another trial fits. Tune asks after each event: only a change is looked at anew."""

    def __init__(self, nodes: Nodes, request_of: Callable[[Task], dict[str, float]], parallel: int | None) -> None:
        self._nodes, self._request_of, self._parallel = nodes, request_of, parallel
        self._requests: dict[AttemptId, dict[str, float]] = {}
        self._handed_out: Mapping[AttemptId, Task] = {}
        self._alive: object = None
        self._answer = False

    def __call__(self, handed_out: Mapping[AttemptId, Task]) -> bool:
        """Return whether a trial fits beside those that were handed out: another mapping if these have changed."""
        alive = self._nodes.alive()  # the same object for a second
        if alive is not self._alive or handed_out is not self._handed_out:
            known = self._requests
            self._requests = {key: known.get(key) or self._request_of(task) for key, task in handed_out.items()}
            self._answer = self._nodes.has_room(list(self._requests.values()), self._parallel)
            self._alive, self._handed_out = alive, handed_out
        return self._answer
