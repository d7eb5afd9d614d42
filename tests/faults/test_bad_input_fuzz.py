"""Mutations of the shipped sweep files: each is accepted or refused with a message, within 1 s of processor time."""

from __future__ import annotations

import os
import random
import re
import time
from pathlib import Path

import pytest

from sweeper.core.errors import InputError
from sweeper.spec import Sweep, load_sweep

FOLDER = Path(__file__).parents[2] / "search_spaces"
SHIPPED = [path.read_text() for path in sorted(FOLDER.glob("**/*.yaml"))]
SEEDS = [int(seed) for seed in os.environ.get("FUZZ_SEEDS", "0").split(",")]
WORDS = r"""
[ ] { } : , - ? | > & * ! % @ ` # ' " --- ... << null ~ true no on 0 -1 012 1e3 1e400 .nan .inf 12:30 2024-01-01 0.1
9007199254740993 1_000 type when low high step log choices int float categorical constant grid tpe cmaes gp hyperband
patient threshold wrapped epochs steps trials seed name mnist digits ${env:X} sqlite:/// http://h:99999 &a *a !!int
!!python/name:os.system ../x os:system tests.samples:climb 学習率 😀 \ud800 \0 \e[31m
""".split()
TOKEN = re.compile(r"[\w.\-+/]+|[^\w\s]")
VALUE = re.compile(r"(?<=: )[^,{}\[\]\n#]+")


def flip_bytes(text: str, rng: random.Random) -> bytes:
    data = bytearray(text.encode())
    for _ in range(rng.randint(1, 8)):
        index = rng.randrange(len(data))
        match rng.randrange(3):
            case 0:
                data[index] = rng.randrange(256)
            case 1:
                del data[index]
            case _:
                data.insert(index, rng.randrange(256))
    return bytes(data)


def move_lines(text: str, rng: random.Random) -> str:
    lines = text.splitlines()
    for _ in range(rng.randint(1, 4)):
        one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        match rng.randrange(5):
            case 0:
                lines[one], lines[other] = lines[other], lines[one]
            case 1:
                lines.insert(one, lines[other])
            case 2:
                lines[one] = " " * rng.randint(0, 5) + lines[one].lstrip()
            case 3:
                lines[one] = lines[one][: rng.randint(0, len(lines[one]))]
            case _:
                lines[one : one + 1] = []
                lines = lines or [""]
    return "\n".join(lines)


def swap_tokens(text: str, rng: random.Random) -> str:
    for _ in range(rng.randint(1, 5)):
        found = list(TOKEN.finditer(text)) or [re.compile("").match(text)]
        token, other = rng.choice(found), rng.choice(found)
        assert token and other
        word = rng.choice([*rng.choices(WORDS, k=3), other[0], token[0] * rng.choice([2, 100]), ""])
        text = text[: token.start()] + word + text[token.end() :]
    return text


def change_values(text: str, rng: random.Random) -> str:
    """Change values only: the file stays YAML with its keys, so that the code behind the parser is reached."""
    for _ in range(rng.randint(1, 4)):
        found = list(VALUE.finditer(text))
        value, other = rng.choice(found), rng.choice(found)
        number = rng.choice([0, 1, -1, 2**31, 2**53, 1e-320, 1e308, 0.1, 1 / 3, 10**18, rng.uniform(-9, 9)])
        word = rng.choice([other[0].strip(), str(number), f"[{number}, {number}]", f"{{type: {rng.choice(WORDS)}}}"])
        text = text[: value.start()] + word + text[value.end() :]
    return text


def repeat_parts(text: str, rng: random.Random) -> str:
    start = rng.randrange(len(text))
    part = text[start : start + rng.randint(1, 200)]
    return text[:start] + part * rng.choice([2, 10, 1000]) + text[start:]


MUTATIONS = (flip_bytes, move_lines, swap_tokens, change_values, repeat_parts)


def check(seed: str, path: Path) -> bool:
    """Write the mutated file of a seed and load it; return whether it is still a sweep."""
    rng = random.Random(seed)
    mutated: str | bytes = rng.choice(SHIPPED)
    for mutate in rng.choices(MUTATIONS, k=rng.choice([1, 1, 2])):
        text = mutated if isinstance(mutated, str) else mutated.decode(errors="replace")
        mutated = mutate(text, rng) if text.count(": ") > 1 else text
    path.write_bytes(mutated if isinstance(mutated, bytes) else mutated.encode())
    started = time.process_time()
    try:
        sweep: Sweep | None = load_sweep(path)
        assert sweep and sweep.warnings() is not None
        assert Sweep.model_validate(sweep.model_dump(mode="json")) == sweep
    except InputError as error:
        sweep = None
        assert str(error).startswith(str(path)) and all(len(line) < 2000 for line in str(error).splitlines())
    assert time.process_time() - started < 1
    return sweep is not None


def check_many(seeds: range, path: Path, *, root: int) -> int:
    """Return how many of the mutated files are still sweeps."""
    accepted = 0
    for seed in seeds:
        try:
            accepted += check(f"{root}:{seed}", path)
        except BaseException as error:
            error.add_note(f"check('{root}:{seed}', path); the file is {path}")
            raise
    return accepted


def test_mutated_sweep_file_is_accepted_or_refused_with_a_message(tmp_path: Path) -> None:
    accepted = check_many(range(300), tmp_path / "fuzz.yaml", root=0)
    assert 0 < accepted < 300


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("root", SEEDS)
def test_ten_thousand_mutated_files_are_accepted_or_refused_with_a_message(root: int, tmp_path: Path) -> None:
    """Run with the seeds in `FUZZ_SEEDS`, such as `1,2,3`; 0 by default."""
    accepted = check_many(range(10_000), tmp_path / "fuzz.yaml", root=root)
    assert 0 < accepted < 10_000
