"""SD 2 from the picture to the file: in both layouts, resumed, and with the effect that diffusers' loader gives it."""

import hashlib
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
SETTINGS: Values = {("optimizer", "lr"): 2e-2, ("export", "save_precision"): "fp32"}


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of v-prediction, as the models for 768 pixels."""
    folder = tmp_path_factory.mktemp("sd2") / "model"
    return make_model(folder, family="sd2", size="nano", prediction="v_prediction")


@pytest.fixture(scope="module")
def single(base_model: Path) -> Path:
    return to_single_file(base_model, base_model.with_suffix(".safetensors"), with_configs=True)


@pytest.mark.parametrize("values", [pytest.param({}, marks=pytest.mark.ci), TRAINED], ids=["unet", "text encoder too"])
def test_both_layouts_train_the_same_bytes_and_resume(
    make_workshop: MakeWorkshop, single: Path, values: Values
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
    assert (metadata["ss_v2"], metadata["ss_base_model_version"]) == ("True", "sd_v2_v")
    assert metadata["modelspec.architecture"] == "stable-diffusion-v2-768-v/lora"
    assert (metadata["modelspec.prediction_type"], metadata["ss_zero_terminal_snr"]) == ("v", "False")
    assert "lora_unet_mid_block_attentions_0_proj_in" in modules
    assert sum(name.startswith("lora_te_text_model_encoder_layers_") for name in modules) == (12 if values else 0)


def test_zero_terminal_snr_is_a_setting_of_the_run(workshop: Workshop) -> None:
    values: Values = {**SETTINGS, ("model", "zero_terminal_snr"): "on"}
    assert workshop.new(2, values, stop_after=1).exit_code == ExitCode.STOPPED
    assert workshop.go_on(1).exit_code == ExitCode.FINISHED
    with safe_open(workshop.run.export("last"), framework="pt") as file:
        assert file.metadata()["ss_zero_terminal_snr"] == "True"


@pytest.mark.ci
def test_a_vae_of_its_own_is_part_of_the_run(make_workshop: MakeWorkshop, tmp_path: Path) -> None:
    """Its latents are learned from, the file names it, and the run goes on with no other."""
    own, other = make_workshop("own"), make_workshop("other")
    vae = make_model(tmp_path / "other", family="sd2", size="nano", seed=5) / "vae"
    assert own.new(2, SETTINGS).exit_code == ExitCode.FINISHED
    values: Values = {**SETTINGS, ("model", "vae"): str(vae)}
    assert other.new(2, values, stop_after=1).exit_code == ExitCode.STOPPED
    assert other.go_on(1).exit_code == ExitCode.FINISHED
    assert other.losses() != own.losses()
    with safe_open(other.run.export("last"), framework="pt") as file:
        metadata = file.metadata()
    weights = vae / "diffusion_pytorch_model.safetensors"
    assert metadata["ss_vae_name"] == "vae"
    assert metadata["ss_new_vae_hash"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    with safe_open(own.run.export("last"), framework="pt") as file:
        assert "ss_vae_name" not in file.metadata()
    weights.write_bytes((make_model(tmp_path / "third", family="sd2", size="nano") / "vae" / weights.name).read_bytes())
    assert other.go_on(1).exit_code == ExitCode.BAD_INPUT


@pytest.mark.ci
def test_it_is_evaluated(workshop: Workshop) -> None:
    values: Values = {("evaluation", "every"): 1, ("evaluation", "sample_prompts"): ("a red ring",)}
    outcome = workshop.new(1, {**SETTINGS, **values, ("evaluation", "examples"): 1})
    evaluated = [event for event in outcome.of(Evaluated) if not event.is_control]
    assert evaluated and all(event.validation is not None and event.samples for event in evaluated)


def test_diffusers_own_loader_gives_the_file_the_same_effect(workshop: Workshop, base_model: Path) -> None:
    from diffusers import StableDiffusionPipeline

    values = {**SETTINGS, **TRAINED, ("training", "max_grad_norm"): 0.0}
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
    pipeline: Any = StableDiffusionPipeline.from_pretrained(base_model, local_files_only=True)
    pipeline.load_lora_weights(str(workshop.run.export("last")))
    with torch.no_grad():
        caption = loaded.trained[batch.example_ids[0]].caption
        embeds, _ = pipeline.encode_prompt(caption, "cpu", 1, False)
        theirs = pipeline.unet(noised.noisy_latents, noised.timesteps, encoder_hidden_states=embeds).sample
    assert (ours - without).abs().max() > 0.05 * ours.std()
    assert (ours - theirs).abs().max() <= 1e-5 * ours.std()
