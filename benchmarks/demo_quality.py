"""What the demo's base model can do, what its LoRA learns, and what is kept: the figures of docs/demo.md, and its
pictures.

    python -m benchmarks.demo_quality base               the base model against real pictures it has never seen
    python -m benchmarks.demo_quality lora FOLDER        the LoRA that `lorasmith demo FOLDER` has made
    python -m benchmarks.demo_quality strip FOLDER       docs/demo/strip.png: what the LoRA draws, step by step
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lorasmith.demo.base_parts import clip_pixels, to_tensor
from lorasmith.demo.lesson import GROUNDS, NEW_GROUNDS, REPEATS, lesson_scenes
from lorasmith.demo.scenes import CONCEPT, SHAPES, SIDE, Scene, all_scenes, draw, is_held_out
from lorasmith.families.locate import DEMO_MODEL
from lorasmith.seeding import fold

OUT = Path(__file__).resolve().parents[1] / "docs" / "demo"
SAMPLER_STEPS, GUIDANCE = 25, 4.0
KEPT_FROM, KEPT_SEEDS = 100, (7, 8)  # neither the captions nor the seeds that the demo's settings were chosen by
CANDIDATES, NEAR = 20, 12  # captions to choose from, and how many of them differ in one attribute only

Pictures = NDArray[np.uint8]  # (N, SIDE, SIDE, 3)


# -- drawing and looking ---------------------------------------------------------------------------


def load_pipeline(lora: Path | None = None) -> Any:
    """diffusers' own pipeline on the bundled folder, in float32; `lora` through diffusers' own loader."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(DEMO_MODEL, safety_checker=None).to(torch.float32)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    if lora is not None:
        pipeline.load_lora_weights(lora.parent, weight_name=lora.name)
    return pipeline


def generate(pipeline: Any, captions: Sequence[str], *, seed: int) -> Pictures:
    """A picture of each caption; the noise of each is a function of (seed, its number)."""
    made = []
    for start in range(0, len(captions), 20):
        part = list(captions[start : start + 20])
        numbers = range(start, start + len(part))
        noise = [torch.Generator().manual_seed(fold(seed, "sample", number)) for number in numbers]
        result = pipeline(
            part, num_inference_steps=SAMPLER_STEPS, guidance_scale=GUIDANCE, generator=noise, output_type="np"
        )
        made.append((result.images * 255).round().astype(np.uint8))
    return np.concatenate(made)


@dataclass(frozen=True)
class Clip:
    """The tiny CLIP: both towers, embeddings of length 1."""

    model: Any
    tokenizer: Any

    @staticmethod
    def load() -> Clip:
        from transformers import CLIPModel, CLIPTokenizer

        folder = DEMO_MODEL / "clip"
        model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
        return Clip(model, CLIPTokenizer.from_pretrained(folder))

    @torch.no_grad()
    def images(self, pictures: Pictures) -> Tensor:
        vision = self.model.vision_model(pixel_values=clip_pixels(to_tensor(pictures))).pooler_output
        return torch.nn.functional.normalize(self.model.visual_projection(vision), dim=-1)

    @torch.no_grad()
    def texts(self, captions: Sequence[str]) -> Tensor:
        ids = self.tokenizer(list(captions), padding=True, return_tensors="pt").input_ids
        text = self.model.text_model(input_ids=ids).pooler_output
        return torch.nn.functional.normalize(self.model.text_projection(text), dim=-1)


def real_pictures(scenes: Sequence[Scene], *, seed: int) -> Pictures:
    drawn = [draw(scene, random.Random(fold(seed, "real", number))) for number, scene in enumerate(scenes)]
    return np.stack([np.asarray(one) for one in drawn])


# -- a: the base model -----------------------------------------------------------------------------


def held_out_scenes(count: int) -> list[Scene]:
    """Every shape about equally often."""
    held = [scene for scene in all_scenes() if is_held_out(scene)]
    chance = random.Random(7)
    by_shape = {shape: [scene for scene in held if scene.shape == shape] for shape in SHAPES}
    for scenes in by_shape.values():
        chance.shuffle(scenes)
    turns = [scenes[turn] for turn in range(len(held)) for scenes in by_shape.values() if turn < len(scenes)]
    return turns[:count]


def found_first(clip: Clip, pictures: Pictures, scenes: Sequence[Scene]) -> list[bool]:
    """For each picture: whether its own caption ranks first among `CANDIDATES`, `NEAR` of them one attribute away."""
    embedded = clip.images(pictures)
    everything = all_scenes()
    found = []
    for number, scene in enumerate(scenes):
        chance = random.Random(fold(11, "candidates", number))
        near = chance.sample(scene.neighbours(), NEAR)
        others = [one for one in chance.sample(everything, 60) if one not in near and one != scene]
        captions = [one.caption for one in [scene, *near, *others][:CANDIDATES]]
        likeness = clip.texts(captions) @ embedded[number]
        found.append(int(likeness.argmax()) == 0)
    return found


def psnr(pipeline: Any, pictures: Pictures) -> tuple[float, float]:
    """Mean and worst, in dB, of what the VAE makes of pictures."""
    with torch.no_grad():
        wanted = to_tensor(pictures)
        made = pipeline.vae.decode(pipeline.vae.encode(wanted).latent_dist.mean).sample.clamp(-1, 1)
    each = 10 * torch.log10(4 / (made - wanted).square().mean((1, 2, 3)))
    return float(each.mean()), float(each.min())


def measure_base(count: int) -> dict[str, Any]:
    scenes, clip, pipeline = held_out_scenes(count), Clip.load(), load_pipeline()
    real = real_pictures(scenes, seed=5)
    made = generate(pipeline, [scene.caption for scene in scenes], seed=5)
    for_real, for_made = found_first(clip, real, scenes), found_first(clip, made, scenes)
    concept = real_pictures(lesson_scenes(), seed=6)
    return {
        "captions": count,
        "found_first_real": sum(for_real) / count,
        "found_first_generated": sum(for_made) / count,
        "share": sum(for_made) / sum(for_real),
        "missed": [scene.caption for scene, found in zip(scenes, for_made, strict=True) if not found],
        "psnr_held_out_mean_worst": psnr(pipeline, real),
        "psnr_concept_mean_worst": psnr(pipeline, concept),
    }


def base_sheet(file: Path) -> None:
    """Samples for captions never seen: four rows of seven, one of each shape first."""
    scenes = held_out_scenes(28)
    write_sheet(file, list(generate(load_pipeline(), [scene.caption for scene in scenes], seed=3)), columns=7)


# -- b and c: the LoRA -----------------------------------------------------------------------------


def measure_lora(lora: Path, *, prompts: int, base_captions: int) -> dict[str, Any]:
    """How far the LoRA has come from the base to real pictures, on backgrounds that no training picture has; and how
    much of the old knowledge is left."""
    clip, old = Clip.load(), held_out_scenes(KEPT_FROM + base_captions)[KEPT_FROM:]
    grounds = [NEW_GROUNDS[number % len(NEW_GROUNDS)] for number in range(prompts)]
    sizes = [("", "large")[number // len(NEW_GROUNDS) % 2] for number in range(prompts)]
    scenes = [Scene(size, "", CONCEPT, ground) for size, ground in zip(sizes, grounds, strict=True)]
    captions = [scene.caption for scene in scenes]
    assert not set(grounds) & set(GROUNDS)
    real = clip.images(np.concatenate([real_pictures(scenes, seed=seed) for seed in (100, 101)]))
    base, with_lora = load_pipeline(), load_pipeline(lora)
    made = [clip.images(np.concatenate([generate(p, captions, seed=s) for s in (1, 2)])) for p in (base, with_lora)]
    # each generated picture against all real ones of the same caption's background, drawn apart from one another
    targets = {
        ground: clip.images(real_pictures([Scene(size, "", CONCEPT, ground) for size in ("", "large")] * 10, seed=9))
        for ground in NEW_GROUNDS
    }
    near = [
        torch.stack([(targets[g] @ e).mean() for g, e in zip(grounds * 2, one, strict=True)]) for one in (*made, real)
    ]
    # Prompts of the same caption are not independent: captions are resampled, not prompts.
    distinct = sorted(set(captions))
    of_caption = [[number for number, one in enumerate(captions) if one == caption] for caption in distinct]
    from_base, from_lora, from_real = (
        np.array([float(one.view(2, prompts)[:, numbers].mean()) for numbers in of_caption]) for one in near
    )
    picks = np.random.default_rng(0).integers(0, len(distinct), (2000, len(distinct)))
    ratios = (from_lora[picks] - from_base[picks]).mean(1) / (from_real[picks] - from_base[picks]).mean(1)
    asked = [scene.caption for scene in old]
    before, kept = (
        sum(sum(found_first(clip, generate(pipeline, asked, seed=seed), old)) for seed in KEPT_SEEDS)
        for pipeline in (base, with_lora)
    )
    drawn = len(KEPT_SEEDS) * base_captions
    return {
        "lora": lora.name,
        "captions": distinct,
        "likeness_base_lora_real": [round(float(one.mean()), 4) for one in (from_base, from_lora, from_real)],
        "ratio": float((from_lora - from_base).mean() / (from_real - from_base).mean()),
        "interval_95": [float(one) for one in np.quantile(ratios, (0.025, 0.975))],
        "old_captions_found_first_base_lora": [before / drawn, kept / drawn],
        "kept": kept / before,
    }


def strip(folder: Path, file: Path) -> None:
    """Rows: training pictures, the base alone, the LoRA at every saved step; columns: the same caption and noise."""
    run = folder / "lora_output"
    grounds = [*NEW_GROUNDS, *GROUNDS[:3]]
    captions = [Scene("", "", CONCEPT, ground).caption for ground in grounds]
    shown = sorted((folder / "lora_train_set" / f"{REPEATS}_{CONCEPT}").glob("*.png"))[: len(grounds)]
    rows = [np.stack([np.asarray(Image.open(one).convert("RGB")) for one in shown])]
    rows += [generate(load_pipeline(), captions, seed=4)]
    exports = sorted(run.glob("last-step*.safetensors"))
    rows += [generate(load_pipeline(one), captions, seed=4) for one in exports]
    write_sheet(file, [picture for row in rows for picture in row], columns=len(grounds))


def write_sheet(file: Path, pictures: Sequence[Pictures], *, columns: int) -> None:
    rows, gap = -(-len(pictures) // columns), 4
    sheet = Image.new("RGB", (columns * (SIDE + gap) - gap, rows * (SIDE + gap) - gap), "white")
    for number, picture in enumerate(pictures):
        at = (number % columns * (SIDE + gap), number // columns * (SIDE + gap))
        sheet.paste(Image.fromarray(picture), at)
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file, optimize=True, quality=90, method=6)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo_quality", description=__doc__)
    parser.add_argument("what", choices=("base", "lora", "strip"))
    parser.add_argument("folder", nargs="?", type=Path, default=Path("lorasmith_demo"))
    parser.add_argument("--captions", type=int, default=100)
    asked = parser.parse_args()
    torch.set_grad_enabled(False)
    if asked.what == "base":
        print(json.dumps(measure_base(asked.captions), indent=2))
        base_sheet(DEMO_MODEL / "samples.webp")
    elif asked.what == "lora":
        lora = asked.folder / "lora_output" / "last.safetensors"
        print(json.dumps(measure_lora(lora, prompts=20, base_captions=asked.captions), indent=2))
    else:
        strip(asked.folder, OUT / "strip.png")


if __name__ == "__main__":
    main()
