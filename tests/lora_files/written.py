"""LoRA files as other programs write them, by their own writers where those are installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from torch import Tensor

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
RANK, ALPHA = 3, 6.0


def unet_with_lora(model: Path) -> UNet2DConditionModel:
    """A UNet with an adapter of PEFT's whose numbers are all drawn."""
    unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS))
    generator = torch.Generator().manual_seed(7)
    for name, parameter in unet.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return unet


def changes(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """Path in the UNet -> the change of the layer's weight, with the factor alpha / rank."""
    pairs = get_peft_model_state_dict(unet)
    paths = {key.partition(".lora_")[0] for key in pairs}
    return {
        path: ALPHA / RANK * pairs[f"{path}.lora_B.weight"] @ pairs[f"{path}.lora_A.weight"] for path in sorted(paths)
    }


def baked(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """PEFT's tensors with a factor of 1, which files without an alpha have."""
    pairs = get_peft_model_state_dict(unet)
    return {key: tensor * (ALPHA / RANK if "lora_B" in key else 1) for key, tensor in pairs.items()}


def write_diffusers(unet: UNet2DConditionModel, folder: Path) -> Path:
    """`unet.….lora_A.weight`, as diffusers saves it today."""
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=baked(unet))
    return folder / "pytorch_lora_weights.safetensors"


def write_diffusers_with_settings(unet: UNet2DConditionModel, folder: Path) -> Path:
    """The same with alpha among the settings in the metadata, as diffusers' training scripts save it."""
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=get_peft_model_state_dict(unet),
        unet_lora_adapter_metadata=unet.peft_config["default"].to_dict(),
    )
    return folder / "pytorch_lora_weights.safetensors"


def write_old_diffusers(unet: UNet2DConditionModel, folder: Path) -> Path:
    """`unet.….lora.down.weight`, as diffusers' conversion makes it."""
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=convert_state_dict_to_diffusers(baked(unet)))
    return folder / "pytorch_lora_weights.safetensors"


def write_processors(unet: UNet2DConditionModel, folder: Path) -> Path:
    """`unet.….processor.to_q_lora.down.weight`, the names before diffusers had PEFT."""
    names = {"lora_A": "down", "lora_B": "up"}
    tensors = {}
    for key, tensor in baked(unet).items():
        path, _, end = key.partition(".lora_")
        stem, _, layer = path.removesuffix(".0").rpartition(".")
        tensors[f"unet.{stem}.processor.{layer}_lora.{names[f'lora_{end[0]}']}.weight"] = tensor
    return saved(tensors, folder / "processors.safetensors")


def write_peft(unet: UNet2DConditionModel, folder: Path) -> Path:
    """`base_model.model.…`, as PEFT saves a model of its own; alpha stands in `adapter_config.json`, for rsLoRA."""
    plain = UNet2DConditionModel.from_config(unet.config)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA / RANK**0.5, target_modules=TARGETS, use_rslora=True)
    model = get_peft_model(plain, config)
    for key, tensor in get_peft_model_state_dict(unet).items():
        model.get_parameter(f"base_model.model.{key.removesuffix('.weight')}.default.weight").data = tensor
    model.save_pretrained(folder)
    return folder / "adapter_model.safetensors"


def write_kohya(unet: UNet2DConditionModel, folder: Path, prefix: str = "lora_unet_") -> Path:
    return saved(_kohya(unet, prefix, "_"), folder / "kohya.safetensors")


def write_lycoris(unet: UNet2DConditionModel, folder: Path) -> Path:
    return write_kohya(unet, folder, "lycoris_")


def write_onetrainer(unet: UNet2DConditionModel, folder: Path) -> Path:
    """OneTrainer's own names, dotted."""
    return saved(_kohya(unet, "lora_unet.", "."), folder / "onetrainer.safetensors")


def _kohya(unet: UNet2DConditionModel, prefix: str, point: str) -> dict[str, Tensor]:
    tensors = {}
    for key, tensor in get_peft_model_state_dict(unet).items():
        path, _, end = key.partition(".lora_")
        module = prefix + path.replace(".", point)
        tensors[f"{module}.lora_{'down' if end[0] == 'A' else 'up'}.weight"] = tensor
        tensors[f"{module}.alpha"] = torch.tensor(ALPHA)
    return tensors


def saved(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    whole = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    safetensors.torch.save_file(whole, path, dict(metadata) if metadata else None)
    return path


WRITERS = {
    "diffusers": write_diffusers,
    "diffusers_settings": write_diffusers_with_settings,
    "diffusers_old": write_old_diffusers,
    "processors": write_processors,
    "peft": write_peft,
    "kohya": write_kohya,
    "lycoris": write_lycoris,
    "onetrainer": write_onetrainer,
}
