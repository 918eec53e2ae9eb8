"""Makes the demo's base model from nothing: draws the pictures, trains VAE, CLIP and UNet, writes the folder.

    python -m lorasmith.demo.make_base WORK --to FOLDER

Goes on where it was interrupted: each stage keeps its state in WORK. Bundled is what it made with the defaults.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lorasmith.demo import base_parts
from lorasmith.demo.base_folder import demo_tokenizer, write_base
from lorasmith.demo.stages import run_stage
from lorasmith.seeding import fold

STAGES = ("vae", "clip", "unet")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long each stage takes, and from what seed everything is drawn."""

    seed: int = 0
    vae_steps: int = 4200
    vae_edges_steps: int = 12000
    clip_steps: int = 3600
    unet_steps: int = 5000
    pictures: int = 8400
    half_precision: bool = True


def make_base(work: Path, recipe: Recipe, *, stages: tuple[str, ...] = STAGES) -> dict[str, nn.Module]:
    """The trained networks of `stages`, in order; each one that is finished is only read."""
    work.mkdir(parents=True, exist_ok=True)
    made: dict[str, nn.Module] = {}
    tokenizer = demo_tokenizer()
    if "vae" in stages:
        vae = _fresh("vae", recipe.seed, len(tokenizer))
        stage = base_parts.vae_stage(
            vae, seed=recipe.seed, steps=recipe.vae_steps, half_precision=recipe.half_precision
        )
        vae = run_stage(stage, work)["vae"].requires_grad_(True)
        stage = base_parts.vae_edges_stage(
            vae, seed=recipe.seed, steps=recipe.vae_edges_steps, half_precision=recipe.half_precision
        )
        made["vae"] = run_stage(stage, work)["vae"]
    if "clip" in stages:
        clip = _fresh("clip", recipe.seed, len(tokenizer))
        stage = base_parts.clip_stage(clip, tokenizer, seed=recipe.seed, steps=recipe.clip_steps)
        made["clip"] = run_stage(stage, work)["clip"]
    if "unet" in stages:
        latents, captions = _latents(made["vae"], work / "latents.pt", recipe)
        made["unet"] = _fresh("unet", recipe.seed, len(tokenizer))
        made["text_encoder"] = _text_tower(made["clip"]).requires_grad_(True)
        stage = base_parts.unet_stage(
            made["unet"],
            made["text_encoder"],
            tokenizer,
            latents=latents,
            captions=captions,
            seed=recipe.seed,
            steps=recipe.unet_steps,
        )
        run_stage(stage, work)
    return made


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lorasmith.demo.make_base", description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--to", type=Path, help="the diffusers folder to write")
    parser.add_argument("--stages", default=",".join(STAGES), help="in order, with commas")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    torch.set_num_threads(asked.threads)
    made = make_base(asked.work, Recipe(), stages=tuple(asked.stages.split(",")))
    if asked.to is not None:
        scale = torch.load(asked.work / "latents.pt", weights_only=True)["scaling_factor"]
        write_base(asked.to, made, scaling_factor=scale)


def _fresh(name: str, seed: int, vocabulary: int) -> nn.Module:
    """With the library's own initial weights, from a seed of this part."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPConfig, CLIPModel

    with torch.random.fork_rng():
        torch.manual_seed(fold(seed, "initial", name) % 2**63)
        if name == "vae":
            vae: nn.Module = AutoencoderKL.from_config(base_parts.VAE_CONFIG)  # type: ignore[no-untyped-call]
            return vae
        if name == "unet":
            unet: nn.Module = UNet2DConditionModel.from_config(base_parts.UNET_CONFIG)  # type: ignore[no-untyped-call]
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


def _latents(vae: nn.Module, file: Path, recipe: Recipe) -> tuple[torch.Tensor, list[str]]:
    """Encoded once and kept, scaled to a standard deviation of 1."""
    if not file.exists():
        pixels, captions = base_parts.drawn_scenes(recipe.pictures, fold(recipe.seed, "unet"))
        latents = base_parts.latents_of(vae, pixels)
        scale = round(1 / float(latents.std()), 5)
        torch.save({"latents": latents * scale, "captions": captions, "scaling_factor": scale}, file)
    stored = torch.load(file, weights_only=True)
    return stored["latents"], stored["captions"]


if __name__ == "__main__":
    main()
