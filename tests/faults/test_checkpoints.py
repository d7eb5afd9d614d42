"""Checkpoints: writing one is interrupted by a kill, some are damaged, and a trial resumes from them five times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sweeper.worker.checkpoints import CheckpointStore
from tests.faults.harness import KERAS, PAPER, Campaign
from tests.faults.test_processes import kill_driver, rows_of

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]

Record = Callable[[str, str], None]

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "with a flipped bit": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
}


def checkpoints(campaign: Campaign) -> list[Path]:
    return sorted(campaign.folder.glob("sweeps/*/trials/*/attempt-*"))


def test_worker_killed_while_writing_a_checkpoint_leaves_a_whole_one(
    campaign: Campaign, record: Record, pytestconfig: pytest.Config
) -> None:
    times = pytestconfig.getoption("--times")
    campaign.declare(
        PAPER,
        trainable="tests.faults.trainables:slow_to_save",
        budget={"trials": 2, "epochs": 10 + 2 * times, "max_failures": times + 1, "parallel": 1},
    )
    run = campaign.start()
    torn = 0
    while campaign.kills < times:
        campaign.wait_for(lambda: campaign.trainers(), run)
        campaign.wait_for_lines(1, run)
        campaign.wait_for(lambda: list(campaign.folder.glob("sweeps/*/trials/*/.writing-*/*")), run)
        if run.poll() is not None:
            break
        for pid in campaign.trainers():
            campaign.kill(pid)
        written = [path.parent for path in campaign.folder.glob("sweeps/*/trials/*/.writing-*")]
        torn += bool(written)
        assert all(CheckpointStore(folder).latest() for folder in written if list(folder.glob("attempt-*")))
    assert run.wait(240) == 0, campaign.output()
    campaign.check()
    record(
        "`kill -9` while a checkpoint is written",
        f"{campaign.kills} kills, {torn} torn files, none ever loaded",
    )


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_checkpoint_is_skipped_for_the_one_before_it(campaign: Campaign, record: Record, how: str) -> None:
    campaign.declare(PAPER, budget={"trials": 1, "epochs": 60})
    undisturbed = Campaign(campaign.folder / "undisturbed", 0)
    undisturbed.folder.mkdir()
    undisturbed.declare(campaign.sweep)
    undisturbed.finish()
    run = campaign.start()
    campaign.wait_for(lambda: len(checkpoints(campaign)) == CheckpointStore.KEEP, run)
    campaign.wait_for_lines(campaign.random.randint(1, 20), run)
    kill_driver(campaign, run)
    value = checkpoints(campaign)[-1] / "files" / "value"
    value.write_bytes(DAMAGE[how](value.read_bytes()))
    campaign.finish(interval=2)
    assert campaign.fingerprint() == undisturbed.fingerprint()
    record(f"a checkpoint that is {how}", "the one before is used; the trial ends as an undisturbed one")


def test_trial_without_a_whole_checkpoint_starts_again(campaign: Campaign, record: Record) -> None:
    campaign.declare(PAPER, budget={"trials": 1, "epochs": 40})
    run = campaign.start()
    campaign.wait_for(lambda: len(checkpoints(campaign)) == CheckpointStore.KEEP, run)
    kill_driver(campaign, run)
    for folder in checkpoints(campaign):
        (folder / "files" / "value").write_bytes(b"")
    campaign.finish(interval=40)
    starts = [line.step for line in campaign.history() if line.what == "start"]
    assert starts == [0, 0]
    record("all checkpoints of a trial damaged", "it starts again at step 0; no step is recorded twice")


def test_network_interrupted_five_times_ends_bit_for_bit_as_an_undisturbed_one(
    campaign: Campaign, record: Record
) -> None:
    campaign.declare(KERAS, budget={"trials": 1, "epochs": 150, "max_failures": 10})
    undisturbed = Campaign(campaign.folder / "undisturbed", 0)
    undisturbed.folder.mkdir()
    undisturbed.declare(campaign.sweep)
    undisturbed.finish()
    for turn in range(3):
        run = campaign.start()
        campaign.wait_for_lines(campaign.random.randint(4, 7), run)
        if turn < 2:  # the worker, and then the driver
            campaign.kill(campaign.trainers()[0])
            campaign.wait_for_lines(campaign.random.randint(4, 7), run)
        kill_driver(campaign, run)
    campaign.finish()
    (row,) = rows_of(campaign)
    assert campaign.kills == 5 and row.attempt == 6
    assert campaign.fingerprint() == undisturbed.fingerprint()
    ours, theirs = (np.load(checkpoints(each)[-1] / "files" / "state.npz") for each in (campaign, undisturbed))
    assert ours.files == theirs.files
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours.files)
    seen = f"each of {row.step} reports, the weights and the optimizer's state equal to the last bit"
    record("a Keras trial interrupted five times", seen)
