"""P2 again and again: 12 steps = 5 + 7 = 5 + 1 + 6 in fresh processes, and kills. REPEATS says how often.

Once, only on the demo's model and as it is trained by default: test_same_bytes has the miniature in both precisions.
"""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.fresh import train, train_killed_at
from tests.end_to_end.workshop import Workshop

pytestmark = [pytest.mark.long, pytest.mark.timeout(7200)]

MakeWorkshop = Callable[[str], Workshop]
REPEATS = int(os.environ.get("REPEATS", "1"))
OPTIONS = (
    "--batch-size",
    "2",
    "--accumulate",
    "2",
    "--dropout",
    "0.1",
    "--train-text-encoder",
    "--evaluate-every",
    "0",
)


@pytest.fixture(params=["demo"] if REPEATS == 1 else ["miniature", "demo"])
def base_model(request: pytest.FixtureRequest, miniature: Path) -> Path:
    return miniature if request.param == "miniature" else Path("demo")


@pytest.mark.parametrize("precision", ["fp32"] if REPEATS == 1 else ["fp32", "bf16"])
def test_however_a_run_is_cut_it_ends_with_the_same_bytes(make_workshop: MakeWorkshop, precision: str) -> None:
    options = (*OPTIONS, "--precision", precision, "--evaluate-every", "0")
    straight = make_workshop("straight")
    train(straight, "--new", "--steps", "12", *options)
    expected = (straight.losses(), straight.digest())
    chance = random.Random(1)
    for number in range(REPEATS):
        two, three, killed = (make_workshop(f"{name}{number}") for name in ("two", "three", "killed"))
        train(two, "--new", "--steps", "5", *options)
        shutil.copytree(two.run.root, three.run.root)
        train(two, "--continue", "--steps", "7")
        train(three, "--continue", "--steps", "1")
        train(three, "--continue", "--steps", "6")
        train_killed_at(killed, chance.randrange(1, 11), "--new", "--steps", "12", "--save-every", "2", *options)
        train(killed, "--continue")
        assert [(one.losses(), one.digest()) for one in (two, three, killed)] == [expected] * 3, f"repetition {number}"
