"""Models and pictures, made once a session, and a workshop to run things in.

Imports nothing heavy at the top: every folder of tests has these fixtures, and most of them need no torch.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end.workshop import Workshop

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest model that can be trained, as a diffusers folder: for tests of a run's life."""
    from tests.families.unet_miniature import make_model

    made = make_model(tmp_path_factory.mktemp("models") / "nano", size="nano")
    gc.freeze()  # as in tests/conftest.py: by now diffusers is loaded
    return made


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model in SD 1.x's layout, as a diffusers folder: for tests of numbers."""
    from tests.families.unet_miniature import make_model

    return make_model(tmp_path_factory.mktemp("models") / "miniature")


@pytest.fixture(scope="session")
def base_model(nano: Path) -> Path:
    """The model of all workshops. A file of tests that is about numbers overrides it with the miniature."""
    return nano


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents and embeddings of the session: most tests are not about making them."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def drawn_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pictures in two shapes and two repeats."""
    from lorasmith.demo.miniature import draw_pictures

    folder = tmp_path_factory.mktemp("pictures")
    draw_pictures(folder, 4, seed=1, size=(64, 64), repeats=2)
    draw_pictures(folder, 3, seed=2, size=(128, 64), repeats=1)
    return folder


@pytest.fixture
def workshop(
    base_model: Path, shared_cache: Path, drawn_pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Workshop:
    """A folder with pictures of its own and the base model."""
    from tests.end_to_end.workshop import Workshop

    (tmp_path / ".lorasmith_cache").symlink_to(shared_cache)
    shutil.copytree(drawn_pictures, tmp_path / "lora_train_set")
    return Workshop(tmp_path, base_model, monkeypatch)


@pytest.fixture
def make_workshop(
    shared_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workshop: Workshop
) -> Callable[[str], Workshop]:
    """More folders with the same pictures, for runs that are compared."""

    def make(name: str) -> Workshop:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "lora_train_set").symlink_to(workshop.folder / "lora_train_set")
        (folder / ".lorasmith_cache").symlink_to(shared_cache)
        return type(workshop)(folder, workshop.base_model, monkeypatch)

    return make


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A run sets torch's thread count and its repeatable kernels for the whole process: put back afterwards."""
    _settle_torch()
    yield
    _settle_torch()


def _settle_torch() -> None:
    torch = sys.modules.get("torch")  # whoever loads it later finds OMP_NUM_THREADS=1
    if torch is not None:
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting is left out where no test is about it: nothing else is cut off from power."""
    path = request.node.path
    if not (path.is_relative_to(TESTS / "faults") or path == TESTS / "runs" / "test_durable.py"):
        monkeypatch.setattr(os, "fsync", lambda _handle: None)
