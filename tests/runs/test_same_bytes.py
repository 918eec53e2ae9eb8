"""P2 in processes of their own, with the threads that a person has: nothing around a run changes a bit of it.

A process has other addresses, another hash seed, another environment and other neighbours each time. Most tests pin one
thread, and were green on processors on which two threads gave other bytes in every process.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from lorasmith.ledger import read_events, steps
from tests.runs.workshop import Workshop

pytestmark = [pytest.mark.ci, pytest.mark.timeout(900)]

MakeWorkshop = Callable[[str], Workshop]
PROJECT = Path(__file__).parents[2]
SHIM = Path(__file__).with_name("shifted.c")
SMALL = ("--steps", "6", "--rank", "3", "--evaluate-every", "0")
# Sums over many rows, two sizes of pictures, dropout and both models.
TEXT = ("--train-text-encoder", "--batch-size", "2", "--accumulate", "2", "--dropout", "0.1")
ROWS = {
    "fp32": ("--precision", "fp32", "--batch-size", "1"),
    "fp32-text-encoder": ("--precision", "fp32", *TEXT),
    "bf16-text-encoder": ("--precision", "bf16", *TEXT),
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


def train(workshop: Workshop, *arguments: str, threads: int = 2, around: Mapping[str, str] | None = None) -> None:
    """Trains as a person does, in a process of its own."""
    command, environment = _command(workshop, *arguments), _environment(threads, around or {})
    done = subprocess.run(command, cwd=workshop.folder, env=environment, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()


def _command(workshop: Workshop, *arguments: str) -> list[str]:
    model = ["--base-model", str(workshop.base_model), *SMALL] if "--new" in arguments else []
    return [sys.executable, str(PROJECT / "train_lora.py"), *model, *arguments]


def _environment(threads: int, around: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    return {**inherited, "OMP_NUM_THREADS": str(threads), **around}


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
def test_what_is_around_a_run_changes_no_bit(make_workshop: MakeWorkshop, row: str) -> None:
    options = ROWS[row]
    surroundings = {
        "plain": {},
        "hashes": {"PYTHONHASHSEED": "4711", "LARGE": "x" * 100_000},
        "heap": {"PYTHONMALLOC": "malloc", "MALLOC_ARENA_MAX": "1", "PYTHONHASHSEED": "1"},
    }
    found = {}
    for name, around in surroundings.items():
        workshop = make_workshop(name)
        train(workshop, "--new", *options, around=around)
        found[name] = (workshop.losses(), workshop.digest())
    assert found["hashes"] == found["plain"]
    assert found["heap"] == found["plain"]


@pytest.mark.parametrize("row", ROWS)
def test_where_memory_lies_changes_no_bit(make_workshop: MakeWorkshop, shim: Path, row: str) -> None:
    """Means something on every processor: each tensor of a run lies elsewhere than in the other run."""
    options = ROWS[row]
    found = []
    for seed in ("1", "2"):
        workshop = make_workshop(seed)
        train(workshop, "--new", *options, around={"LD_PRELOAD": str(shim), "SHIFT_SEED": seed})
        found.append((workshop.losses(), workshop.digest()))
    assert found[0] == found[1]


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
@pytest.mark.parametrize("threads", [2, 3])
def test_a_busy_neighbour_changes_no_bit(make_workshop: MakeWorkshop, threads: int) -> None:
    alone, crowded = make_workshop("alone"), make_workshop("crowded")
    train(alone, "--new", *ROWS["fp32-text-encoder"], threads=threads)
    with busy_neighbour():
        train(crowded, "--new", *ROWS["fp32-text-encoder"], threads=threads)
    assert crowded.digest() == alone.digest()


@pytest.mark.parametrize("row", ["fp32", "bf16-text-encoder"])
def test_a_cache_filled_anew_holds_the_same_bits(make_workshop: MakeWorkshop, row: str) -> None:
    """The encoders repeat too: what another process cached is what this one would."""
    found = []
    for name in ("first", "second"):
        workshop = make_workshop(name)
        cache, pictures = workshop.folder / ".lorasmith_cache", workshop.folder / "lora_train_set"
        shared = pictures.resolve()
        cache.unlink()  # both are links, and the cache that all tests share lies beside the real pictures
        pictures.unlink()
        shutil.copytree(shared, pictures)
        train(workshop, "--new", *ROWS[row])
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
    _train_killed_at(killed, 4, "--new", "--steps", "12", "--save-every", "3", *options)
    train(killed, "--continue")
    assert killed.digest() == straight.digest()


def _train_killed_at(workshop: Workshop, step: int, *arguments: str) -> None:
    """Kills supervisor and worker once that step is recorded."""
    command, environment = _command(workshop, *arguments), _environment(2, {})
    supervisor = subprocess.Popen(
        command, cwd=workshop.folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    give_up_at = time.monotonic() + 300
    while not steps(read_events(workshop.run.ledger))[step - 1 :]:
        assert supervisor.poll() is None and time.monotonic() < give_up_at
        time.sleep(0.01)
    supervisor.send_signal(signal.SIGKILL)
    supervisor.wait()
    # The worker sees it at its next step boundary, and saves there: the next start meets both.
