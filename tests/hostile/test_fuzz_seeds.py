"""The octets that fuzzing begins with go through each target in every run of the tests, without the fuzzer."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[2] / "fuzz"
SPEC = importlib.util.spec_from_file_location("targets", FUZZ / "targets.py")
targets = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(targets)
SEEDS = [
    pytest.param(name, file, id=f"{name}-{file.name}")
    for name in targets.TARGETS
    for file in sorted((FUZZ / "corpus" / name).iterdir())
]


def test_each_target_has_seeds():
    assert {folder.name for folder in (FUZZ / "corpus").iterdir()} == set(targets.TARGETS)


@pytest.mark.parametrize(("name", "file"), SEEDS)
def test_a_seed_breaks_no_promise_nor_do_its_neighbours(name, file):
    seed, chance = file.read_bytes(), random.Random(file.name)
    targets.TARGETS[name](seed)
    for _ in range(20):
        octets = bytearray(seed)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(octets) + 1)
            octets[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        targets.TARGETS[name](bytes(octets))


def test_nothing_is_a_fault_either():
    for target in targets.TARGETS.values():
        target(b"")
