"""One miniature of each kind for all tests of this folder: they are read, never written."""

import weakref
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lorasmith.demo.miniature import to_single_file
from lorasmith.families import kept_results
from tests.families.unet_miniature import make_model


@dataclass(frozen=True)
class Made:
    """The same random model in every layout."""

    folder: Path
    single: Path  # describes itself
    ckpt: Path


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Every layer of Stable Diffusion 1.x, narrow, with CLIP's vocabulary: recognised without configs."""
    root = tmp_path_factory.mktemp("narrow")
    folder = make_model(root / "model", size="narrow")
    single = to_single_file(folder, root / "model.safetensors", with_configs=False)
    return Made(folder, single, to_single_file(folder, root / "model.ckpt", with_configs=False))


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Three levels and a vocabulary of its own."""
    root = tmp_path_factory.mktemp("miniature")
    folder = make_model(root / "model")
    single = to_single_file(folder, root / "model.safetensors", with_configs=True)
    return Made(folder, single, to_single_file(folder, root / "model.ckpt", with_configs=False))


@pytest.fixture(scope="session")
def sd2(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A nano SD 2 with a vocabulary of its own; the pickle cannot be told from shapes."""
    root = tmp_path_factory.mktemp("sd2")
    folder = make_model(root / "model", family="sd2", size="nano")
    single = to_single_file(folder, root / "model.safetensors", with_configs=True)
    return Made(folder, single, to_single_file(folder, root / "model.ckpt", with_configs=False))


@pytest.fixture(scope="session")
def narrow_sd2(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Every layer of SD 2, narrow, with CLIP's vocabulary: recognised without configs."""
    root = tmp_path_factory.mktemp("narrow_sd2")
    folder = make_model(root / "model", family="sd2", size="narrow")
    single = to_single_file(folder, root / "model.safetensors", with_configs=False)
    return Made(folder, single, to_single_file(folder, root / "model.ckpt", with_configs=False))


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A nano SDXL with a vocabulary of its own; the pickle cannot be told from shapes."""
    root = tmp_path_factory.mktemp("sdxl")
    folder = make_model(root / "model", family="sdxl", size="nano")
    single = to_single_file(folder, root / "model.safetensors", with_configs=True)
    return Made(folder, single, to_single_file(folder, root / "model.ckpt", with_configs=False))


@pytest.fixture(scope="session")
def narrow_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Every layer of SDXL, narrow, with CLIP's vocabulary: recognised without configs."""
    root = tmp_path_factory.mktemp("narrow_sdxl")
    folder = make_model(root / "model", family="sdxl", size="narrow", precision=torch.float16)
    single = to_single_file(folder, root / "model.safetensors", with_configs=False)
    return Made(folder, single, to_single_file(folder, root / "model.ckpt", with_configs=False))


@pytest.fixture
def results_kept(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each result that a second computation of a block may take, without those of blocks that have no
    gradient; layers are small here, with adapters of rank 4."""
    sizes: list[int] = []
    kept: list[weakref.ref[Tensor]] = []

    def noted(tensor: Tensor) -> Tensor:
        copy = tensor.clone()
        kept.append(weakref.ref(copy))
        sizes[:] = [found.nbytes for reference in kept if (found := reference()) is not None]
        return copy

    monkeypatch.setattr(kept_results, "copied", noted)
    monkeypatch.setattr(kept_results, "MOST_RANK", 4)
    return sizes
