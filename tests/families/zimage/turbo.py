"""Z-Image-Turbo as a miniature, a training adapter for it, and a model that is their sum."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.families.zimage.miniature import DENOISER, make_model

RANK, WEIGHTS = 2, Path("transformer", "diffusion_pytorch_model.safetensors")
LAYERS = ("attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0", "feed_forward.w2")


def make_turbo(folder: Path) -> Path:
    """Weights are multiples of 1/4096, so that sums with the adapter's change are exact in float32 in every order."""
    make_model(folder)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), "shift": 3.0}))
    tensors = {name: (4096 * tensor).round() / 4096 for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    return folder


def pairs() -> dict[str, tuple[Tensor, Tensor]]:
    """Path of a layer -> its matrices, of multiples of 1/16."""
    generator, width = torch.Generator().manual_seed(3), DENOISER["dim"]
    assert isinstance(width, int)
    inner = int(width / 3 * 8)
    found = {}
    for path in (f"layers.{number}.{layer}" for number in range(2) for layer in LAYERS):
        inputs = inner if path.endswith("w2") else width
        sizes = (RANK, inputs), (width, RANK)
        down, up = (torch.randint(-4, 5, size, generator=generator) / 16 for size in sizes)
        found[path] = (down, up)
    return found


def write_adapter(path: Path, *, naming: str = "own", dtype: torch.dtype = torch.bfloat16) -> Path:
    """In ai-toolkit's names, as the published adapters; in kohya's with alphas; or fused in the checkpoint's own."""
    tensors: dict[str, Tensor] = {}
    for layer, (down, up) in pairs().items():
        if naming == "kohya":
            name = f"lora_unet_{layer.replace('.', '_')}"
            tensors[f"{name}.alpha"] = torch.tensor(RANK / 4)
            tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": 4 * up}
        elif naming == "fused" and ".attention.to_" in layer:
            continue
        else:
            tensors |= {f"diffusion_model.{layer}.lora_A.weight": down, f"diffusion_model.{layer}.lora_B.weight": up}
    if naming == "fused":
        tensors |= _fused()
    save_file({key: tensor.to(dtype).contiguous() for key, tensor in tensors.items()}, path)
    return path


def _fused() -> dict[str, Tensor]:
    found = {}
    for number in range(2):
        attention = f"layers.{number}.attention"
        parts = [pairs()[f"{attention}.to_{letter}"] for letter in "qkv"]
        out = pairs()[f"{attention}.to_out.0"]
        found[f"diffusion_model.{attention}.qkv.lora_A.weight"] = torch.cat([down for down, _ in parts])
        found[f"diffusion_model.{attention}.qkv.lora_B.weight"] = torch.block_diag(*(up for _, up in parts))
        found[f"diffusion_model.{attention}.out.lora_A.weight"] = out[0]
        found[f"diffusion_model.{attention}.out.lora_B.weight"] = out[1]
    return found


def make_sum(turbo: Path, folder: Path) -> Path:
    """A base model that is the sum of Turbo and the adapter, in float32."""
    shutil.copytree(turbo, folder)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), "shift": 6.0}))
    tensors = load_file(folder / WEIGHTS)
    for layer, (down, up) in pairs().items():
        tensors[f"{layer}.weight"] += up @ down
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    return folder
