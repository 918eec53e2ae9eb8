"""SD 2: the same model from every layout to the bit, its text encoder as diffusers' pipeline has it, its layers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lorasmith.families import load_family
from lorasmith.families.recognize import recognize
from lorasmith.families.sd2.family import StableDiffusion2
from lorasmith.session.name_tables import name_table
from tests.families.unet_miniature import make_model

CPU = torch.device("cpu")
CAPTIONS = ["a red circle on a blue background", "", ", ".join(["a white ring", "test"] * 40)]


def family_of(path: Path) -> StableDiffusion2:
    family = load_family(recognize(path))
    assert isinstance(family, StableDiffusion2)
    return family


def outputs(path: Path) -> dict[str, Tensor]:
    """What each part makes of the same input."""
    family = family_of(path)
    encoders = family.load_encoders(CPU)
    models = family.load_models(trained=[], dtype=torch.float32, to=CPU)
    pixels = torch.rand((3, 64, 64), generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = family.encode_image(encoders, pixels)["latents"]
    embeds = family.encode_caption(encoders, CAPTIONS[0])["prompt_embeds"]
    with torch.no_grad():
        predicted = family.predict(models, latents[None], torch.tensor([500]), {"prompt_embeds": embeds[None]})
    return {"latents": latents, "embeds": embeds, "predicted": predicted}


@pytest.mark.parametrize("other", ["single", pytest.param("ckpt", marks=pytest.mark.ci)])
def test_every_layout_is_the_same_model_to_the_bit(sd2, narrow_sd2, other: str) -> None:
    made = sd2 if other == "single" else narrow_sd2
    folder, file = outputs(made.folder), outputs(getattr(made, other))
    for name, expected in folder.items():
        assert torch.equal(file[name], expected), name


def test_captions_are_encoded_as_by_the_pipeline(sd2) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(sd2.folder, local_files_only=True)
    family = family_of(sd2.folder)
    encoders = family.load_encoders(CPU, only=("text_encoder",))
    for caption in CAPTIONS:
        theirs, _ = pipeline.encode_prompt(caption, "cpu", 1, False)
        ours = family.encode_caption(encoders, caption)["prompt_embeds"]
        assert torch.allclose(ours, theirs[0], rtol=0, atol=1e-6)


def test_captions_are_padded_as_open_clip_pads(sd2) -> None:
    """In both layouts; "!" in a caption is no padding."""
    for path in (sd2.folder, sd2.single):
        ids = family_of(path).tokenize("a cat! dog")["input_ids"]
        (padded,) = (ids[6:] == 0).unique()
        assert bool(padded) and len(ids) == 77
        assert 0 not in ids[:6]


def test_every_layer_of_the_real_model(narrow_sd2) -> None:
    family = family_of(narrow_sd2.folder)
    models = family.load_models(trained=["text_encoder"], dtype=torch.float32, to=CPU)
    is_convolution = ("resnets", "samplers")  # and a linear layer beside them, for the time
    targets = [one for one in family.target_modules(models) if not any(part in one.name for part in is_convolution)]
    assert [sum(target.component == name for target in targets) for name in models] == [192, 138]
    rows = name_table("sd2").targets
    for target in targets:
        assert rows[target.name].layer.kernel == target.spec.kernel == ()


@pytest.mark.parametrize(
    ("prediction", "architecture"),
    [("epsilon", "stable-diffusion-v2-512/lora"), ("v_prediction", "stable-diffusion-v2-768-v/lora")],
)
def test_the_architecture_follows_the_prediction(tmp_path: Path, prediction: str, architecture: str) -> None:
    folder = make_model(tmp_path / "model", family="sd2", size="nano", prediction=prediction)
    assert family_of(folder).traits.architecture == architecture
    assert StableDiffusion2.traits.base_model_version == "sd_v2"
