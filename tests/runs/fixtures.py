"""The miniature and its pictures, made once a session, and a workshop to run things in."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lorasmith.demo.miniature import draw_pictures, make_model
from tests.runs.workshop import Workshop


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model in SD 1.x's layout, as a diffusers folder."""
    return make_model(tmp_path_factory.mktemp("models") / "miniature")


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents and embeddings of the session: most tests are not about making them."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def workshop(miniature: Path, shared_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """A folder with seven pictures in two shapes and two repeats, and the miniature as base model."""
    (tmp_path / ".lorasmith_cache").symlink_to(shared_cache)
    draw_pictures(tmp_path / "lora_train_set", 4, seed=1, size=(64, 64), repeats=2)
    draw_pictures(tmp_path / "lora_train_set", 3, seed=2, size=(128, 64), repeats=1)
    return Workshop(tmp_path, miniature, monkeypatch)


@pytest.fixture
def make_workshop(
    miniature: Path, shared_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workshop: Workshop
) -> Callable[[str], Workshop]:
    """More folders with the same pictures, for runs that are compared."""

    def make(name: str) -> Workshop:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "lora_train_set").symlink_to(workshop.folder / "lora_train_set")
        (folder / ".lorasmith_cache").symlink_to(shared_cache)
        return Workshop(folder, miniature, monkeypatch)

    return make


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A run sets torch's thread count and its repeatable kernels for the whole process: put back afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
