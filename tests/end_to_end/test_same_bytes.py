"""P2 in processes of their own, with the threads that a person has: nothing around a run changes a bit of it.

A process has other addresses, another hash seed, another environment and other neighbours each time. Most tests pin one
thread, and were green on processors on which two threads gave other bytes in every process.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from lorasmith.demo.miniature import draw_pictures
from tests.end_to_end.fresh import train, train_killed_at
from tests.end_to_end.workshop import Workshop
from tests.families.anima import miniature as anima

pytestmark = [pytest.mark.ci, pytest.mark.timeout(2400)]

MakeWorkshop = Callable[[str], Workshop]
SHIM = Path(__file__).with_name("shifted.c")
SMALL = ("--rank", "3", "--evaluate-every", "0")
SIX = ("--steps", "6")
# Sums over many rows, two sizes of pictures, dropout and both models.
TEXT = ("--train-text-encoder", "--batch-size", "2", "--accumulate", "2", "--dropout", "0.1", *SMALL)
ROWS = {"fp32": ("--precision", "fp32", *TEXT), "bf16": ("--precision", "bf16", *TEXT)}
SINGLE = ("--precision", "fp32", "--batch-size", "1", *SMALL)
OTHER = {
    **{"PYTHONHASHSEED": "4711", "LARGE": "x" * 100_000, "PYTHONMALLOC": "malloc", "MALLOC_ARENA_MAX": "1"},
    "OMP_DYNAMIC": "TRUE",  # fewer threads than are asked for, where the machine is busy
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


def elsewhere(shim: Path, seed: str) -> dict[str, str]:
    """Where each tensor lies, which means something on every processor."""
    return {"LD_PRELOAD": str(shim), "SHIFT_SEED": seed}


@pytest.mark.parametrize("row", ROWS)
def test_however_a_run_is_made_it_ends_with_the_same_bytes(make_workshop: MakeWorkshop, shim: Path, row: str) -> None:
    """In other surroundings (hash seed, environment, heap, a neighbour), elsewhere in memory, killed and three
    times continued: as a single run that nothing happened to."""
    options = ROWS[row]
    names = ("plain", "other", "elsewhere", "cut")
    plain, other, shifted, cut = workshops = [make_workshop(name) for name in names]
    train(plain, "--new", *SIX, *options)
    with busy_neighbour():
        train(other, "--new", *SIX, *options, around=OTHER)
    train(shifted, "--new", *SIX, *options, around=elsewhere(shim, "1" if row == "fp32" else "2"))
    train_killed_at(cut, 2, "--new", "--steps", "4", "--save-every", "2", *options)
    train(cut, "--continue")
    train(cut, "--continue", "--steps", "1")
    train(cut, "--continue", "--steps", "1")
    found = {name: (one.losses(), one.digest()) for name, one in zip(names, workshops, strict=True)}
    assert {name for name, bits in found.items() if bits != found["plain"]} == set()


def test_more_threads_than_cores_repeat_too(make_workshop: MakeWorkshop) -> None:
    alone, crowded = make_workshop("alone"), make_workshop("crowded")
    train(alone, "--new", *SIX, *ROWS["fp32"], threads=3)
    with busy_neighbour():
        train(crowded, "--new", *SIX, *ROWS["fp32"], threads=3)
    assert crowded.digest() == alone.digest()


def test_a_flow_model_with_pictures_of_several_shapes(
    make_workshop: MakeWorkshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two threads the gradient of attention reads matrices that lie at no multiple of 64 bytes: without the strict
    mode of MKL a continued run ended with other bytes each time."""
    anima.make_model(tmp_path / "model")
    drawn = draw_pictures(tmp_path / "pictures", 4, seed=1, repeats=2)
    for size, picture in zip(((96, 96), (128, 80), (80, 128), (96, 96)), sorted(drawn.glob("*.png")), strict=True):
        Image.open(picture).resize(size).save(picture)
    straight, cut = (Workshop(make_workshop(name).folder, tmp_path / "model", monkeypatch) for name in ("a", "b"))
    for workshop in (straight, cut):
        (workshop.folder / "lora_train_set").unlink()
        (workshop.folder / "lora_train_set").symlink_to(tmp_path / "pictures")
    options = ("--precision", "fp32", "--resolution", "64", "--batch-size", "2", "--lr", "1e-3", *SMALL)
    train(straight, "--new", "--steps", "3", *options)
    train(cut, "--new", "--steps", "1", *options)
    train(cut, "--continue", "--steps", "2")
    assert cut.digest() == straight.digest()


def test_a_cache_filled_anew_holds_the_same_bits(make_workshop: MakeWorkshop, shim: Path) -> None:
    """The encoders repeat too, whatever is around: what another process cached is what this one would. A batch of one
    picture has products of its own."""
    found = []
    for name, around in {"plain": {}, "other": OTHER, "elsewhere": elsewhere(shim, "3")}.items():
        workshop = make_workshop(name)
        cache, pictures = workshop.folder / ".lorasmith_cache", workshop.folder / "lora_train_set"
        shared = pictures.resolve()
        cache.unlink()  # both are links, and the cache that all tests share lies beside the real pictures
        pictures.unlink()
        shutil.copytree(shared, pictures)
        train(workshop, "--new", *SIX, *SINGLE, around=around)
        files = {path.relative_to(cache): path.read_bytes() for path in cache.rglob("*") if path.is_file()}
        found.append((files, workshop.losses(), workshop.digest()))
    assert found[0][0] and found[0] == found[1] == found[2]
