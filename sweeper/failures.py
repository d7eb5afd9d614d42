"""Why an attempt at a trial ended before the trial did, and whether another one follows.

What the surroundings do to a trial (its node goes, its driver dies) is not its fault and never counts. What may go
better the next time (a worker that died or hung, a file system or network that refused) is tried again, a little later
each time. What will go wrong again (an import, a shape, a diverging loss) is not.
"""

from __future__ import annotations

import builtins
import re

from sweeper.core.trials import Failure
from sweeper.worker.runner import kind_of

LOST = Failure("node", "its node was lost")


OUT_OF_TOUCH = Failure("crash", "its worker could not be reached")
"""Perhaps its node is lost, which Ray does not know at once."""


def lost_worker(text: str) -> Failure:
    """The failure that Ray describes when a worker is gone: it died, its node did, or it could not even start."""
    _, started, tail = text.rpartition("in its creation task")
    if started:
        return _could_not_start(tail)
    if re.search(r"node has died|node was (preempted|terminated)|node preemption|by preemption", text):
        return LOST
    # Ray guesses at the out-of-memory killer of the system whenever a worker dies; this is its own.
    if re.search(r"memory pressure|running low on memory", text):
        return Failure("memory", "its worker was killed: the node ran out of memory")
    return OUT_OF_TOUCH if "is unavailable:" in text else Failure("crash", "its worker died")


def _could_not_start(text: str) -> Failure:
    """What ended the start of a worker: an exception of the code that it runs, which comes again, or something else."""
    after = text.rpartition('  File "')[2].splitlines()[1:]
    said = next((line for line in after if line and not line.startswith(" ")), "")
    name = said.partition(":")[0]
    if not re.fullmatch(r"[A-Za-z_][\w.]*", name) or name.startswith("ray."):
        return Failure("crash", f"its worker died while it started ({said or 'no word why'})")
    error = getattr(builtins, name, None)
    kind = kind_of(error()) if isinstance(error, type) and issubclass(error, (OSError, MemoryError)) else "error"
    return Failure(kind, f"its worker could not start ({said})")
