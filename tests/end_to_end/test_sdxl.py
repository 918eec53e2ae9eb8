"""SDXL from the picture to the file: in both layouts, resumed, and with the effect that diffusers' loader gives it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from lorasmith.demo.miniature import to_single_file
from lorasmith.diffusion.process import apply_noise
from lorasmith.engine.step import numbers_at
from lorasmith.errors import ExitCode
from lorasmith.runs.events import CacheProgress, Evaluated
from tests.end_to_end.workshop import Values, Workshop, load, stage
from tests.families.unet_miniature import make_model

MakeWorkshop = Callable[[str], Workshop]
TRAINED: Values = {("adapter", "train_text_encoder"): True}
SETTINGS: Values = {
    ("adapter", "rank"): 4,
    ("adapter", "alpha"): 2.0,
    ("optimizer", "lr"): 2e-2,
    ("export", "save_precision"): "fp32",
    ("dataset", "resolution"): 64,
}


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("sdxl") / "model", family="sdxl", size="nano")


@pytest.fixture(scope="module")
def single(base_model: Path) -> Path:
    return to_single_file(base_model, base_model.with_suffix(".safetensors"), with_configs=True)


@pytest.mark.ci
@pytest.mark.parametrize("values", [{}, TRAINED], ids=["unet", "text encoders too"])
def test_both_layouts_train_the_same_bytes_and_resume(
    make_workshop: MakeWorkshop, base_model: Path, single: Path, values: Values
) -> None:
    straight, pieces = make_workshop("straight"), make_workshop("pieces")
    assert straight.new(3, {**SETTINGS, **values}).exit_code == ExitCode.FINISHED
    of_file: Values = {**SETTINGS, **values, ("model", "base_model"): str(single)}
    assert pieces.new(3, of_file, stop_after=1).exit_code == ExitCode.STOPPED
    resumed = pieces.go_on(2)
    assert (resumed.exit_code, resumed.of(CacheProgress)) == (ExitCode.FINISHED, [])
    assert pieces.losses() == straight.losses()
    assert pieces.digest() == straight.digest()
    with safe_open(straight.run.export("last"), framework="pt") as file:
        modules = {name.partition(".")[0] for name in file.keys()}  # noqa: SIM118  not a dict
        metadata = file.metadata()
    assert metadata["ss_base_model_version"] == "sdxl_base_v1-0"
    assert (metadata["ss_clip_skip"], metadata["modelspec.encoder_layer"]) == ("2", "2")
    assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    counts = [sum(name.startswith(f"lora_{part}_") for name in modules) for part in ("unet", "te1", "te2")]
    assert counts == ([192, 12, 12] if values else [192, 0, 0])
    assert "lora_unet_middle_block_1_transformer_blocks_1_attn2_to_k" in modules


@pytest.mark.ci
def test_it_is_evaluated(workshop: Workshop) -> None:
    values: Values = {("evaluation", "every"): 1, ("evaluation", "sample_prompts"): ("a red ring",)}
    outcome = workshop.new(1, {**SETTINGS, **values, ("evaluation", "examples"): 1})
    evaluated = [event for event in outcome.of(Evaluated) if not event.is_control]
    assert evaluated and all(event.validation is not None and event.samples for event in evaluated)


CHOICES: dict[str, Values] = {
    "usual": {},
    "convolutions, blocks, rsLoRA": {
        ("adapter", "conv_rank"): 3,
        ("adapter", "conv_alpha"): 1.5,
        ("adapter", "block_ranks"): {"input_blocks.4": 2, "middle_block": 1, "output_blocks.1": 0, "text_encoder_2": 3},
        ("adapter", "rslora"): True,
        ("optimizer", "text_encoder_lr"): [2e-2, 1e-2],
    },
}


@pytest.mark.ci
@pytest.mark.parametrize("choice", CHOICES)
def test_diffusers_own_loader_gives_the_file_the_same_effect(workshop: Workshop, base_model: Path, choice: str) -> None:
    from diffusers import StableDiffusionXLPipeline

    values = {**SETTINGS, **TRAINED, ("training", "max_grad_norm"): 0.0, **CHOICES[choice]}
    assert workshop.new(3, values).exit_code == ExitCode.FINISHED
    start = workshop.start_new(3, values)
    stage(start)
    loaded = load(start.run, stop_at=4, resume=workshop.state_folder())
    context, adapter = loaded.context, loaded.state.adapter
    adapter.set_training(False)
    _, batch = context.batches.at(4, 0)
    noised = apply_noise(context.process, batch.latents, numbers_at(context, 1, 0, batch))

    def predicted(multiplier: float) -> Tensor:
        adapter.set_multiplier(multiplier)
        with torch.no_grad():
            conditioning = context.family.conditioning(context.models, batch.inputs)
            return context.family.predict(context.models, noised.noisy_latents, noised.timesteps, conditioning)

    ours, without = predicted(1.0), predicted(0.0)
    pipeline: Any = StableDiffusionXLPipeline.from_pretrained(base_model, local_files_only=True)
    pipeline.load_lora_weights(str(workshop.run.export("last")))
    with torch.no_grad():
        embeds, _, pooled, _ = pipeline.encode_prompt(
            loaded.trained[batch.example_ids[0]].caption, device="cpu", do_classifier_free_guidance=False
        )
        added = {"text_embeds": pooled, "time_ids": batch.inputs["time_ids"]}
        theirs = pipeline.unet(
            noised.noisy_latents, noised.timesteps, encoder_hidden_states=embeds, added_cond_kwargs=added
        ).sample
    assert (ours - without).abs().max() > 0.05 * ours.std()
    assert (ours - theirs).abs().max() <= 1e-5 * ours.std()
