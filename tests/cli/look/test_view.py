"""MLflow's shared view of a sweep in a real browser: which axes its charts have."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sweeper.spec import Sweep
from sweeper.tracking import start_ui, sweep_links, sync
from sweeper.tracking.content import EPOCH
from tests.tracking.tools import RecordedStudy, four_trials

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WAIT_S = 120.0

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="NO CHROMIUM HERE: MLflow's view was not opened in a browser"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's own, in SQLAlchemy
]

TEXTS = "[...document.querySelectorAll('%s')].map(node => node.textContent)"


class Browser:
    """A browser that is driven by the DevTools protocol over two pipes; a message ends with a zero byte."""

    def __init__(self, requests: int, answers: int) -> None:
        self._requests, self._answers = requests, answers
        self._number, self._buffer = 0, b""

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._requests, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._buffer:
                self._buffer += os.read(self._answers, 1 << 16)
            text, _, self._buffer = self._buffer.partition(b"\0")
            answer = json.loads(text)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def open(self, url: str) -> Callable[[str], Any]:
        """Open a page; return a function that evaluates an expression in it."""
        target = self.call("Target.createTarget", url=url)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

        def evaluate(expression: str) -> Any:
            found = self.call("Runtime.evaluate", session, expression=expression, returnByValue=True)
            return found["result"].get("value")

        return evaluate


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    options = "--headless --no-sandbox --disable-gpu --no-first-run --remote-debugging-pipe --window-size=1400,4000"
    pipes = f"exec {CHROMIUM} {options} --user-data-dir={folder} 3<&{theirs_in} 4>&{theirs_out}"
    command = ["bash", "-c", pipes]
    with subprocess.Popen(command, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL) as process:
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            yield Browser(ours_out, ours_in)
        finally:
            process.kill()
            os.close(ours_out)
            os.close(ours_in)


def wait_for(look: Callable[[], list[str]], wanted: str) -> list[str]:
    deadline = time.monotonic() + WAIT_S
    while wanted not in (found := look()):
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    return found


def test_view_has_the_objective_by_epoch_and_on_the_parallel_coordinates(
    make_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    study = RecordedStudy(make_sweep(budget={"trials": 4, "epochs": 3}))
    four_trials(study)
    sync(study, uri)
    ui = start_ui(uri)
    try:
        (link,) = [link for link in sweep_links(study, uri, ui.url) if link.title == "the trials in charts"]
        with browser(tmp_path / "profile") as opened:
            evaluate = opened.open(link.url)
            # The default charts by step are on the page too; no other one has the epoch on its x axis.
            wait_for(lambda: evaluate(TEXTS % ".xtitle") or [], EPOCH)
            dimensions = wait_for(lambda: evaluate(TEXTS % ".axis .label") or [], "score")
    finally:
        ui.stop()
    assert dimensions == ["height", "score"]
