"""The live view of a submitted sweep on Kubernetes, for `submit --follow`."""

from __future__ import annotations

import time

from sweeper.core.errors import BackendError, InputError, SweeperError

START_TIMEOUT_S = 120.0
"""Longest wait for the study of a sweep whose RayJob runs: its head imports Ray and opens the database first."""

POLL_INTERVAL_S = 1.0


def follow_on_kubernetes(name: str, namespace: str, context: str | None) -> int | None:
    """Show a submitted sweep live, as `sweeper watch` does, until it ends or the user leaves.

    Returns:
        The exit code of `watch`: 0 if the sweep has ended or `q` was pressed, 130 after Ctrl-C. None if its study
        cannot be read from here, or does not begin to run; a line says why.
    """
    from sweeper.backends.tunnel import Place
    from sweeper.cli.cluster import reach
    from sweeper.cli.console import print_note
    from sweeper.cli.look.watch import watch

    try:
        with reach.opened(str(Place(namespace, context))) as url:
            if not _has_begun(name, url):
                print_note(f"{name} has not begun to run after {START_TIMEOUT_S:.0f} s. Showing its output instead.")
                return None
            return watch(name, storage=url)
    except KeyboardInterrupt:
        print_note(f"{name} keeps running on the cluster.")
        return 130
    except (BackendError, InputError) as error:
        print_note(f"The study of {name} cannot be read from here: {error}. Showing its output instead.")
        return None


def _has_begun(name: str, url: str) -> bool:
    """Wait until a process runs a sweep; return whether one does."""
    from sweeper.study.open import read_study

    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            if read_study(name, url).is_running:
                return True
        except SweeperError:  # the first sweep of a cluster creates the tables
            pass
        time.sleep(POLL_INTERVAL_S)
    return False
