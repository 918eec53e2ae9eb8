"""P2 in processes of their own, with the threads that a person has: nothing around a run changes a bit of it.

A process has other addresses, another hash seed, another environment and other neighbours each time. Most tests pin one
thread, and were green on processors on which two threads gave other bytes in every process.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from tests.end_to_end.fresh import train, train_killed_at
from tests.end_to_end.workshop import Workshop

pytestmark = [pytest.mark.ci, pytest.mark.timeout(900)]

MakeWorkshop = Callable[[str], Workshop]
SHIM = Path(__file__).with_name("shifted.c")
SMALL = ("--rank", "3", "--evaluate-every", "0")
SIX = ("--steps", "6")
# Sums over many rows, two sizes of pictures, dropout and both models.
TEXT = ("--train-text-encoder", "--batch-size", "2", "--accumulate", "2", "--dropout", "0.1")
ROWS = {
    "fp32": ("--precision", "fp32", "--batch-size", "1", *SMALL),
    "fp32-text-encoder": ("--precision", "fp32", *TEXT, *SMALL),
    "bf16-text-encoder": ("--precision", "bf16", *TEXT, *SMALL),
}


@pytest.fixture(scope="module")
def base_model(miniature: Path) -> Path:
    """Numbers are compared: a nano model has too few to vary."""
    return miniature


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that shifts what a program's memory lies at."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not sys.platform.startswith("linux") or compiler is None:
        pytest.skip("needs Linux and a C compiler")
    library = tmp_path_factory.mktemp("shim") / "shifted.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SHIM, "-ldl"], check=True)
    return library


@contextmanager
def busy_neighbour() -> Iterator[None]:
    """A program that wants a whole core."""
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        neighbour.kill()
        neighbour.wait()


@pytest.mark.parametrize("row", ROWS)
def test_what_is_around_a_run_changes_no_bit(make_workshop: MakeWorkshop, shim: Path, row: str) -> None:
    """Hash seed, environment, heap; where each tensor lies, which means something on every processor; a neighbour."""
    surroundings: dict[str, dict[str, str]] = {
        "plain": {},
        "other": {"PYTHONHASHSEED": "4711", "LARGE": "x" * 100_000, "PYTHONMALLOC": "malloc", "MALLOC_ARENA_MAX": "1"},
        "elsewhere": {"LD_PRELOAD": str(shim), "SHIFT_SEED": "1"},
        "elsewhere again": {"LD_PRELOAD": str(shim), "SHIFT_SEED": "2"},
        "busy": {},
    }
    found = {}
    for name, around in surroundings.items():
        workshop = make_workshop(name)
        with busy_neighbour() if name == "busy" else nullcontext():
            train(workshop, "--new", *SIX, *ROWS[row], around=around)
        found[name] = (workshop.losses(), workshop.digest())
    assert {name for name, bits in found.items() if bits != found["plain"]} == set()


def test_more_threads_than_cores_repeat_too(make_workshop: MakeWorkshop) -> None:
    alone, crowded = make_workshop("alone"), make_workshop("crowded")
    train(alone, "--new", *SIX, *ROWS["fp32-text-encoder"], threads=3)
    with busy_neighbour():
        train(crowded, "--new", *SIX, *ROWS["fp32-text-encoder"], threads=3)
    assert crowded.digest() == alone.digest()


def test_a_cache_filled_anew_holds_the_same_bits(make_workshop: MakeWorkshop) -> None:
    """The encoders repeat too: what another process cached is what this one would."""
    found = []
    for name in ("first", "second"):
        workshop = make_workshop(name)
        cache, pictures = workshop.folder / ".lorasmith_cache", workshop.folder / "lora_train_set"
        shared = pictures.resolve()
        cache.unlink()  # both are links, and the cache that all tests share lies beside the real pictures
        pictures.unlink()
        shutil.copytree(shared, pictures)
        train(workshop, "--new", *SIX, *ROWS["fp32"])
        files = {path.relative_to(cache): path.read_bytes() for path in cache.rglob("*") if path.is_file()}
        found.append((files, workshop.digest()))
    assert found[0][0] and found[0] == found[1]


@pytest.mark.parametrize("row", ["fp32-text-encoder", "bf16-text-encoder"])
def test_stopped_and_killed_runs_end_with_the_bytes_of_one_that_never_stopped(
    make_workshop: MakeWorkshop, row: str
) -> None:
    straight, pieces, killed = (make_workshop(name) for name in ("straight", "pieces", "killed"))
    options = ROWS[row]
    train(straight, "--new", "--steps", "12", *options)
    train(pieces, "--new", "--steps", "5", *options)
    train(pieces, "--continue", "--steps", "1")
    train(pieces, "--continue", "--steps", "6")
    assert pieces.digest() == straight.digest()
    train_killed_at(killed, 4, "--new", "--steps", "12", "--save-every", "3", *options)
    train(killed, "--continue")
    assert killed.digest() == straight.digest()
