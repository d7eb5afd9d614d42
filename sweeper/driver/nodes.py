"""The nodes of the Ray cluster: how many trials they have room for, and which are set aside as trials die there."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray._private.state import actors, state

from sweeper.core.errors import CapacityError
from sweeper.core.trials import FailureKind
from sweeper.driver.capacity import ResourceRequest, can_autoscale, trials_that_fit

MAX_DEATHS_PER_NODE = 3
"""Attempts that may die on a node one after the other without a word; then it is set aside."""


MAX_WAIT_FOR_NODE_S = 600.0
"""Seconds that trials wait for a node that can run one; then the run ends, to be continued."""


QUIET_WAIT_S = 10.0
"""Seconds of waiting that are not worth a word."""


REFRESH_INTERVAL_S = 1.0
"""Seconds between two looks at the cluster."""


_DEATHS: tuple[FailureKind, ...] = ("crash", "stall", "memory")


AttemptId = tuple[int, int]
"""An attempt: the number of the trial, and its own."""


class Nodes:
    """The nodes as a running sweep sees them."""

    def __init__(self, demands: Sequence[ResourceRequest], announce: Callable[[str], None]) -> None:
        self._demands = demands
        self._may_grow = can_autoscale()
        self._announce = announce
        self._alive: dict[str, dict[str, Any]] = {}
        self._leaving: set[str] = set()
        self._refreshed = -REFRESH_INTERVAL_S
        self._homes: dict[str, str] = {}
        self._deaths: dict[str, list[AttemptId]] = {}
        self._excluded: set[str] = set()
        self._waited = 0.0
        self._asked_at = time.monotonic()
        self._is_announced = False

    def alive(self) -> dict[str, dict[str, Any]]:
        """The live nodes by their id, as of a second ago."""
        if time.monotonic() - self._refreshed >= REFRESH_INTERVAL_S:
            self._refreshed = time.monotonic()
            self._alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
            self._leaving = set(state.get_draining_nodes())
        return self._alive

    def excluded_for(self, request: ResourceRequest) -> list[str]:
        """The nodes where no trial that asks for this is to go; never all of those that could run it."""
        if not self._excluded:
            return []
        able = {node for node, found in self.alive().items() if trials_that_fit(request, found["Resources"])}
        return sorted(able & self._excluded) if able - self._excluded else []

    def room(self) -> int:
        """How many trials can run at once, if they ask for no more than they must."""
        return max(
            sum(trials_that_fit(request, node["Resources"]) for node in self.alive().values())
            for request in self._demands
        )

    def has_room(self, handed_out: Sequence[ResourceRequest], parallel: int | None) -> bool:
        """Whether to hand out another trial; to an autoscaler, that more nodes are wanted is shown by trials that wait.

        Args:
            handed_out: what the trials ask for that run, or wait for a node.
            parallel: how many the user wants; None: as many as there is room for.
        """
        if not handed_out:
            return True
        if parallel is not None and len(handed_out) >= parallel:
            return False
        free = {id: dict(node["Resources"]) for id, node in self.alive().items()}
        placed = sum(self._take(request, free) for request in handed_out)
        if self._may_grow:
            return parallel is not None or len(handed_out) < 2 * placed
        return placed == len(handed_out) and any(self._take(request, free) for request in self._demands)

    def _take(self, request: ResourceRequest, free: dict[str, dict[str, float]]) -> bool:
        """Take what is request for from the first node that has it."""
        excluded = self.excluded_for(request)
        for id, node in free.items():
            if id not in excluded and trials_that_fit(request, node):
                node.update({kind: node.get(kind, 0) - n for kind, n in request.items()})
                return True
        return False

    def node_of_actor(self, actor: str | None) -> str | None:
        """The node of a worker, dead or alive; None if it never had one."""
        if actor is not None and actor not in self._homes:
            self._homes[actor] = actors(actor).get("Address", {}).get("NodeID", "")
        return self._homes.get(actor or "") or None

    def name(self, node: str) -> str:
        return f"node {self._alive[node]['NodeName'] if node in self._alive else node[:8]}"

    def hostname(self, node: str | None) -> str | None:
        """The host name of a node, by which the study knows it."""
        return self._alive[node]["NodeManagerHostname"] if node in self._alive else None

    def mark_healthy(self, node: str | None) -> None:
        """A trial has reported from a node: it is sound."""
        self._deaths.pop(node or "", None)

    def record_death(
        self, node: str, attempt: AttemptId, kind: FailureKind, request: ResourceRequest
    ) -> list[AttemptId]:
        """An attempt that request for this ended on a node before its first report.

        Returns:
            The attempts that the node, and not their trial, is to blame for: none, unless it is set aside.
        """
        others = [found for id, found in self.alive().items() if id not in self._excluded | {node}]
        if kind not in _DEATHS or not any(trials_that_fit(request, other["Resources"]) for other in others):
            return []
        if node in self._excluded:
            return [attempt]
        dead = self._deaths.setdefault(node, [])
        dead.append(attempt)
        if len(dead) < MAX_DEATHS_PER_NODE:
            return []
        self._excluded.add(node)
        self._announce(f"{self.name(node)} is set aside: {len(dead)} attempts in a row died on it")
        return self._deaths.pop(node)

    def is_lost(self, node: str | None) -> bool:
        """Whether Ray has given up the node, or was told that it will go: a spot machine that is taken back."""
        return node is not None and (node not in self.alive() or node in self._leaving)

    def wait_for_room(self, waiting: Sequence[ResourceRequest]) -> None:
        """Look whether trials that wait, and ask for this, can ever start; to be called all the time.

        Raises:
            CapacityError: no node was able to run even one of them for a long time.
        """
        passed, self._asked_at = min(time.monotonic() - self._asked_at, 5.0), time.monotonic()
        nodes = self.alive().values()
        if not waiting or any(trials_that_fit(request, node["Resources"]) for request in waiting for node in nodes):
            if self._is_announced:
                self._announce("going on")
            self._waited, self._is_announced = 0.0, False
            return
        self._waited += passed
        if self._waited > MAX_WAIT_FOR_NODE_S:
            raise CapacityError(
                f"no node was able to run any of the {len(waiting)} waiting trials for {MAX_WAIT_FOR_NODE_S / 60:g} minutes; "
                "nothing is lost, the same command goes on"
            )
        if self._waited > QUIET_WAIT_S and not self._is_announced:
            self._is_announced = True
            self._announce(f"no node can run {len(waiting)} waiting trials; waiting")


def actor_in(text: str) -> str | None:
    """The worker that an error of Ray is about."""
    found = re.search(r"actor_id[:=]\s*([0-9a-f]{32})|The actor ([0-9a-f]{32}) is unavailable", text)
    return (found[1] or found[2]) if found else None
