"""A script as a user writes one: child processes, a checkpoint, and one report for each epoch.

`python scripted.py HEIGHT EPOCHS CHECKPOINT lines|calls`. Its values depend on height and saved state, so that
a wrong resume changes them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
DAEMON = "import os, time\nos.setsid()\nif os.fork(): os._exit(0)\nos.setsid()\ntime.sleep(600)"


def main() -> None:
    height, epochs, folder, way = float(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    children = [
        subprocess.Popen(SLEEP),
        subprocess.Popen(SLEEP, start_new_session=True),
        subprocess.Popen([sys.executable, "-S", "-c", DAEMON]),
    ]
    state, first = 1.0, 0
    if (folder / "state").exists():
        state, first = map(float, (folder / "state").read_text().split())
    with open("history", "a") as history:
        history.write(f"{os.environ['SWEEPER_TRIAL']} {os.environ['SWEEPER_STEP']} {first:g}\n")
    for epoch in range(int(first), epochs):
        time.sleep(float(os.environ.get("EPOCH_S", "0.05")))
        state = state * 0.9 + height * (epoch + 1)
        (folder / "state.new").write_text(f"{state!r} {epoch + 1}")
        (folder / "state.new").rename(folder / "state")
        if way == "lines":
            print(f"score={state!r}")
        else:
            import sweeper

            if not sweeper.report(score=state):
                break
    for child in children:
        child.kill()


if __name__ == "__main__":
    main()
