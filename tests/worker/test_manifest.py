from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.worker.checkpoints import CheckpointStore
from sweeper.worker.manifest import MAX_MANIFEST_BYTES, read_manifest, write_manifest

Mutation = Callable[[random.Random, bytes], bytes]

VALUES = [None, True, False, 0, -1, 13, 2.0, 1e308, 10**40, "", "13", "2", [], {}, [1], {"a": 1}, float("nan")]


def flip_a_bit(rng: random.Random, content: bytes) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def change_bytes(rng: random.Random, content: bytes) -> bytes:
    place, size = rng.randrange(len(content)), rng.randrange(1, 9)
    return content[:place] + rng.randbytes(size) + content[place + size :]


def cut_short(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content))]


def lose_the_beginning(rng: random.Random, content: bytes) -> bytes:
    return content[rng.randrange(1, len(content)) :]


def write_zeros(rng: random.Random, content: bytes) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + bytes(len(content) - place)


def append(rng: random.Random, content: bytes) -> bytes:
    return content + rng.choice([b" ", b"\n", b"\0", b"}", content])


def replace_all(rng: random.Random, content: bytes) -> bytes:
    return rng.choice([b"", b"null", b"[]", b"{}", b"[" * 100_000, b"\xff\xfe", b'{"a":' * 50_000, rng.randbytes(200)])


def change_the_json(rng: random.Random, content: bytes) -> bytes:
    """Change, remove or rename one key of the JSON, as a person or a program could; the digest stays."""
    head, _, body = content.rpartition(b"\n")
    about = json.loads(body)
    key = rng.choice(sorted(about))
    match rng.randrange(3):
        case 0:
            about[key] = rng.choice([value for value in VALUES if value != about[key]])
        case 1:
            del about[key]
        case 2:
            about["svep"] = about.pop(key)
    return (head + b"\n" if head else b"") + json.dumps(about).encode()


MUTATIONS: list[Mutation] = [
    flip_a_bit,
    change_bytes,
    cut_short,
    lose_the_beginning,
    write_zeros,
    append,
    replace_all,
    change_the_json,
]


def save(store: CheckpointStore, step: int) -> Path:
    return store.save(step, {"score": 0.5}, lambda folder: (folder / "weights").write_text(str(step)) and None)


def old_checkpoint(folder: Path, step: int) -> Path:
    """Write a checkpoint as sweeper 0.2 did."""
    made = folder / f"attempt-001-step-{step:08d}"
    made.mkdir(parents=True)
    (made / "weights").write_text(str(step))
    digests = {"weights": hashlib.sha256(str(step).encode()).hexdigest()}
    about = {"study": "one", "params": "two", "step": step, "attempt": 1, "metrics": {"score": 0.5}, "sha256": digests}
    (made / "manifest.json").write_text(json.dumps(about))
    return made


def test_ten_thousand_damaged_manifests_all_mean_the_checkpoint_before(tmp_path: Path) -> None:
    store, rng = CheckpointStore(tmp_path / "trial"), random.Random(0)
    save(store, 1)
    manifest = save(store, 2) / "manifest"
    whole = manifest.read_bytes()
    for number in range(10_000):
        damaged = MUTATIONS[number % len(MUTATIONS)](rng, whole)
        if damaged == whole:
            continue
        manifest.write_bytes(damaged)
        with pytest.raises(ValueError):
            read_manifest(manifest.parent)
        if number % 50 < len(MUTATIONS):
            latest = store.latest()
            assert latest is not None and latest.step == 1, damaged
            assert store.findings().startswith("Checkpoint attempt-001-step-00000002 is damaged ("), damaged
    manifest.write_bytes(whole)
    latest = store.latest()
    assert latest is not None and latest.step == 2


def test_forged_manifest_with_its_digest_raises_nothing_else_than_damage(tmp_path: Path) -> None:
    store, rng = CheckpointStore(tmp_path / "trial"), random.Random(1)
    save(store, 1)
    manifest = save(store, 2) / "manifest"
    body = manifest.read_bytes().partition(b"\n")[2]
    for number in range(800):
        forged = MUTATIONS[number % len(MUTATIONS)](rng, body)
        manifest.write_bytes(hashlib.sha256(forged).hexdigest().encode() + b"\n" + forged)
        latest = store.latest()
        assert latest is not None
        assert latest.step == (1 if store.damaged else 2), forged


def test_damaged_manifest_of_an_older_version_raises_nothing_else_than_damage(tmp_path: Path) -> None:
    store, rng = CheckpointStore(tmp_path / "trial"), random.Random(2)
    old_checkpoint(store.folder, 1)
    manifest = old_checkpoint(store.folder, 2) / "manifest.json"
    whole = manifest.read_bytes()
    for number in range(800):
        damaged = MUTATIONS[number % len(MUTATIONS)](rng, whole)
        manifest.write_bytes(damaged)
        latest = store.latest()
        assert latest is not None
        assert latest.step == (1 if store.damaged else 2), damaged
        assert latest.path.name.endswith(str(latest.step)), "no report of another step"


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ("[]", "Input should be an object"),
        ('{"svep": 2, "attempt": 1, "metrics": {}, "sha256": {}}', "step: Field required"),
        ('{"step": "2", "attempt": 1, "metrics": {}, "sha256": {}}', "step: Input should be a valid integer"),
        ('{"step": true, "attempt": 1, "metrics": {}, "sha256": {}}', "step: Input should be a valid integer"),
        (
            '{"step": 2, "attempt": 1, "metrics": {"score": NaN}, "sha256": {}}',
            "metrics: score: Input should be a finite",
        ),
        ('{"step": 2, "attempt": 1, "metrics": {}, "sha256": {"/dev/zero": ""}}', "wrong sha256: /dev/zero"),
        ('{"step": 2, "attempt": 1, "metrics": {}, "sha256": {"../../x": ""}}', "wrong sha256: ../../x"),
        (
            '{"step": 13, "attempt": 1, "metrics": {}, "sha256": {}}',
            "its manifest is that of attempt-001-step-00000013",
        ),
    ],
)
def test_wrong_manifest_of_an_older_version_is_damage_with_its_reason(
    tmp_path: Path, manifest: str, reason: str
) -> None:
    store = CheckpointStore(tmp_path / "trial")
    old_checkpoint(store.folder, 1)
    (old_checkpoint(store.folder, 2) / "manifest.json").write_text(manifest)
    latest = store.latest()
    assert latest is not None and latest.step == 1
    assert reason in store.findings() and "\n" not in store.findings()


def test_checkpoint_of_an_older_version_is_used_with_its_origin(tmp_path: Path) -> None:
    old_checkpoint(tmp_path / "trial", 2)
    own = CheckpointStore(tmp_path / "trial", origin={"study": "one", "params": "two"})
    latest = own.latest()
    assert latest is not None and (latest.step, latest.metrics) == (2, {"score": 0.5})
    assert (latest.path / "weights").read_text() == "2"
    assert CheckpointStore(tmp_path / "trial", origin={"study": "other", "params": "two"}).latest() is None


def test_reason_of_damage_is_short_whatever_the_manifest_says(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "trial")
    manifest = old_checkpoint(store.folder, 2) / "manifest.json"
    for key in ("sha256", "metrics"):
        about = {"step": 2, "attempt": 1, "metrics": {}, "sha256": {}, key: {"n" * 1_000_000: "x"}}
        manifest.write_text(json.dumps(about))
        assert store.latest() is None and len(store.findings()) < 500


def test_metrics_come_back_to_the_last_bit(tmp_path: Path) -> None:
    rng = random.Random(3)
    values = [rng.uniform(-1, 1) * 10.0 ** rng.randrange(-300, 300) for _ in range(1_000)]
    values += [5e-324, -0.0, sys.float_info.max, 0.1, 1 / 3, 2.0**53 + 1]
    metrics = {str(number): value for number, value in enumerate(values)}
    store = CheckpointStore(tmp_path / "trial")
    store.save(1, metrics, lambda folder: None)
    latest = store.latest()
    assert latest is not None
    assert {name: value.hex() for name, value in latest.metrics.items()} == {k: v.hex() for k, v in metrics.items()}


def test_metric_that_is_not_finite_is_refused_when_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        CheckpointStore(tmp_path / "trial").save(1, {"score": float("inf")}, lambda folder: None)


def test_manifest_that_is_too_large_is_refused_when_saved(tmp_path: Path) -> None:
    folder = tmp_path / "attempt-001-step-00000001"
    (folder / "files").mkdir(parents=True)
    with pytest.raises(ValueError, match="is too large; pack them into fewer files"):
        write_manifest(folder, 1, 1, {"m" * MAX_MANIFEST_BYTES: 1.0}, {})
    write_manifest(folder, 1, 1, {"m" * (MAX_MANIFEST_BYTES - 1_000): 1.0}, {})
    assert read_manifest(folder)[0].step == 1
    shutil.rmtree(folder)
