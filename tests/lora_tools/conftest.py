"""Miniatures in all layouts, with the layers of the real models."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lorasmith.demo.miniature import to_single_file
from lorasmith.families.recognize import recognize
from lorasmith.families.stored_tensors import read_component
from lorasmith.lora_files.names import layers_of
from tests.families.tiny import MINIATURES
from tests.families.unet_miniature import make_model
from tests.lora_tools.flow import FlowMade


@dataclass(frozen=True)
class Made:
    """A model as a folder and as a file."""

    family: str
    folder: Path
    file: Path

    def weights(self, path: Path | None = None) -> dict[str, Tensor]:
        """The weights by target, as training reads them."""
        found = recognize(path or self.folder)
        parts = {row.component for row in layers_of(self.family).table.targets.values()}
        weights = {}
        for part in parts:
            tensors = read_component(found, "unet" if part == "denoiser" else part, torch.float32)
            weights |= {f"{part}.{name.removesuffix('.weight')}": tensor for name, tensor in tensors.items()}
        return weights


@pytest.fixture(scope="session", params=["sd15", pytest.param("sd2", marks=pytest.mark.ci), "sdxl"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """fp16, as most published models are."""
    base = tmp_path_factory.mktemp(request.param)
    folder = make_model(base / "folder", family=request.param, size="nano", precision=torch.float16)
    return Made(request.param, folder, to_single_file(folder, base / "model.safetensors", with_configs=True))


FLOW = [
    "flux1",
    "flux2_klein",
    *(pytest.param(name, marks=pytest.mark.ci) for name in ("krea2", "qwen_image21", "anima", "zimage")),
]


@pytest.fixture(scope="session", params=FLOW)
def flow(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FlowMade:
    """Of flow matching. ComfyUI's file of the denoiser lies where nothing else is."""
    base = tmp_path_factory.mktemp(request.param)
    folder = MINIATURES[request.param](base / "folder")
    split = import_module(f"tests.families.{request.param}.miniature").make_split(folder, base / "models")
    file = base / "alone" / "any_name.safetensors"
    file.parent.mkdir()
    split.rename(file)
    return FlowMade(request.param, folder, file)
