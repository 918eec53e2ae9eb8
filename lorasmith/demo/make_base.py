"""Makes the demo's base model from nothing: draws the pictures, trains VAE, CLIP and UNet, writes the folder.

    python -m lorasmith.demo.make_base WORK --to FOLDER

Goes on where it was interrupted: each stage keeps its state in WORK. Bundled is what it made with the defaults.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lorasmith.demo import base_parts
from lorasmith.demo.base_folder import demo_tokenizer, read_base, scaling_factor_of, write_base
from lorasmith.demo.stages import Stage, run_stage
from lorasmith.seeding import fold

STAGES = ("vae", "vae_edges", "clip", "unet")


@dataclass(frozen=True, slots=True)
class Recipe:
    """The length and the amount of data of a training."""

    seed: int = 20260726
    vae_steps: int = 4200
    vae_edges_steps: int = 4000
    vae_edges_batch: int = 64
    clip_steps: int = 3600
    unet_steps: int = 7500
    unet_batch: int = 128
    pictures: int = 30000  # the UNet's
    half_precision: bool = True  # of the VAE's steps


def make_base(
    work: Path,
    recipe: Recipe,
    *,
    stages: tuple[str, ...] = STAGES,
    start: Path | None = None,
    device: torch.device | None = None,
) -> dict[str, nn.Module]:
    """The trained networks of `stages`, in order; a finished network is only read. `start` is a folder that
    `write_base` made; it stands in for the stages that are not named."""
    work.mkdir(parents=True, exist_ok=True)
    made = read_base(start) if start is not None else {}
    tokenizer = demo_tokenizer()
    if "vae" in stages:
        made["vae"] = _fresh("vae", recipe.seed, len(tokenizer))
        stage = base_parts.vae_stage(
            made["vae"], seed=recipe.seed, steps=recipe.vae_steps, half_precision=recipe.half_precision
        )
        _learn(stage, work, device)
    if "vae_edges" in stages:
        stage = base_parts.vae_edges_stage(
            made["vae"],
            seed=recipe.seed,
            steps=recipe.vae_edges_steps,
            batch=recipe.vae_edges_batch,
            half_precision=recipe.half_precision,
        )
        _learn(stage, work, device)
    if "clip" in stages:
        made["clip"] = _fresh("clip", recipe.seed, len(tokenizer))
        _learn(base_parts.clip_stage(made["clip"], tokenizer, seed=recipe.seed, steps=recipe.clip_steps), work, device)
    if "unet" in stages:
        pictures = _encoded(made["vae"].to(device), work / "latents.pt", recipe)
        made["unet"] = _fresh("unet", recipe.seed, len(tokenizer))
        made["text_encoder"] = _text_tower(made["clip"])
        stage = base_parts.unet_stage(
            made["unet"],
            made["text_encoder"],
            tokenizer,
            pictures=pictures,
            seed=recipe.seed,
            steps=recipe.unet_steps,
            batch=recipe.unet_batch,
        )
        _learn(stage, work, device)
    return {name: module.cpu() for name, module in made.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lorasmith.demo.make_base", description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--to", type=Path, help="the diffusers folder to write")
    parser.add_argument("--stages", default=",".join(STAGES), help="in order, with commas")
    parser.add_argument("--start", type=Path, metavar="FOLDER", help="a written folder that stands in for the others")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    for field in fields(Recipe):
        if field.type == "int":
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    asked = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    torch.set_num_threads(asked.threads)
    torch.set_float32_matmul_precision("high")  # TF32 where there is such a thing
    recipe = Recipe(**{field.name: getattr(asked, field.name) for field in fields(Recipe) if field.type == "int"})
    stages = tuple(asked.stages.split(","))
    made = make_base(asked.work, recipe, stages=stages, start=asked.start, device=torch.device(asked.device))
    if asked.to is not None:
        write_base(asked.to, made, scaling_factor=_scaling_factor(asked.work, asked.start))


def _learn(stage: Stage, work: Path, device: torch.device | None) -> None:
    """Ends with the numbers that a written folder holds, so that such a folder can stand in for the stage."""
    stage.modules.requires_grad_(True)
    run_stage(stage, work, device=device)
    stage.modules.half().float()


def _fresh(name: str, seed: int, vocabulary: int) -> nn.Module:
    """With the library's own initial weights, from a seed of this part."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPConfig, CLIPModel

    with torch.random.fork_rng():
        torch.manual_seed(fold(seed, "initial", name) % 2**63)
        if name == "vae":
            vae: nn.Module = AutoencoderKL.from_config(base_parts.VAE_CONFIG)
            return vae
        if name == "unet":
            unet: nn.Module = UNet2DConditionModel.from_config(base_parts.UNET_CONFIG)
            return unet
        return CLIPModel(CLIPConfig(**base_parts.clip_config(vocabulary)))


def _text_tower(clip: Any) -> nn.Module:
    from transformers import CLIPTextModel

    tower = CLIPTextModel(clip.config.text_config)
    stem = "text_model."
    own = {name: tensor for name, tensor in clip.state_dict().items() if name.startswith(stem)}
    if not any(name.startswith(stem) for name in tower.state_dict()):
        own = {name.removeprefix(stem): tensor for name, tensor in own.items()}
    tower.load_state_dict(own)
    return tower


def _encoded(vae: nn.Module, file: Path, recipe: Recipe) -> base_parts.Encoded:
    """Encoded once and kept, scaled to a standard deviation of 1."""
    if not file.exists():
        pixels, captions = base_parts.drawn_scenes(recipe.pictures, fold(recipe.seed, "unet"))
        latents = base_parts.latents_of(vae, pixels)
        scale = round(1 / float(latents.std()), 5)
        torch.save({"latents": latents * scale, "captions": captions, "scaling_factor": scale}, file)
    stored = torch.load(file, weights_only=True)
    return base_parts.Encoded(stored["latents"], stored["captions"])


def _scaling_factor(work: Path, start: Path | None) -> float:
    """Of the latents that the UNet learned from."""
    file = work / "latents.pt"
    if start is not None and not file.exists():
        return scaling_factor_of(start)
    return float(torch.load(file, weights_only=True)["scaling_factor"])


if __name__ == "__main__":
    main()
