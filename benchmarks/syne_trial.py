"""One trial of Syne Tune's local backend: a script that is started for each trial."""

import argparse

import keras
from syne_tune import Reporter

from benchmarks.workload import SPACE, fit, load_data


class Report(keras.callbacks.Callback):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self._report = Reporter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._report(epoch=epoch + 1, val_accuracy=(logs or {})["val_accuracy"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in SPACE:
        parser.add_argument(f"--{name}")
    known, _ = parser.parse_known_args()
    fit(vars(known), load_data(), [Report()])
