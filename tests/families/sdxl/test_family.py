"""SDXL: the same model from every layout to the bit, its text encoders as diffusers' pipeline has them, its sizes."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lorasmith.data.types import Example, Offset, Size
from lorasmith.demo.miniature import to_single_file
from lorasmith.families import clip, load_family
from lorasmith.families import latent_diffusion as ldm
from lorasmith.families.recognize import recognize
from lorasmith.families.sdxl.family import StableDiffusionXL
from lorasmith.families.sdxl.layout import usual_config
from lorasmith.families.weights import TextSettings
from lorasmith.session.name_tables import name_table
from tests.families.unet_miniature import make_model

CPU = torch.device("cpu")
TEXT = ("text_encoder", "text_encoder_2")
CAPTIONS = ["a red circle on a blue background", "", ", ".join(["a white ring", "test"] * 40)]


def family_of(path: Path, *, clip_skip: int = 1) -> StableDiffusionXL:
    family = load_family(recognize(path), TextSettings(clip_skip=clip_skip))
    assert isinstance(family, StableDiffusionXL)
    return family


def all_modules(family: StableDiffusionXL) -> dict[str, nn.Module]:
    models = family.load_models(trained=TEXT, dtype=torch.float32, to=CPU)
    return models | {"vae": family.load_encoders(CPU, only=("vae",))["vae"]}


def example(original: Size, crop: Offset, bucket: Size) -> Example:
    return Example(Path("a.png"), "", 1, original, bucket, bucket, crop, "", "")


EXAMPLE = example(Size(90, 70), Offset(5, 3), Size(64, 64))


def assert_equal(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def conditioning(family: StableDiffusionXL, encoders: Mapping[str, nn.Module], caption: str) -> dict[str, Tensor]:
    row = {**family.encode_caption(encoders, caption), **family.example_inputs(EXAMPLE)}
    return family.conditioning({}, family.collate([row]))


def outputs(family: StableDiffusionXL) -> dict[str, Tensor]:
    """What each part makes of the same input."""
    encoders = family.load_encoders(CPU)
    models = family.load_models(trained=[], dtype=torch.float32, to=CPU)
    pixels = torch.rand((3, 64, 64), generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = family.encode_image(encoders, pixels)["latents"]
    found = conditioning(family, encoders, CAPTIONS[0])
    with torch.no_grad():
        prediction = family.predict(models, latents[None], torch.tensor([500]), found)
    return {"latents": latents, "out": prediction, **found}


# -- layouts ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def layouts(sdxl, narrow_sdxl, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Pairs that hold the same model."""
    half = to_single_file(
        sdxl.folder, tmp_path_factory.mktemp("half") / "x.safetensors", with_configs=True, precision=torch.float16
    )
    folder = make_model(half.parent / "half", family="sdxl", size="nano", precision=torch.float16)
    return {
        "with its configs": (sdxl.folder, sdxl.single),
        "half precision": (folder, half),
        "ckpt, told from its shapes": (narrow_sdxl.folder, narrow_sdxl.ckpt),
    }


@pytest.mark.parametrize(
    "layout",
    [
        "half precision",
        *(pytest.param(one, marks=pytest.mark.ci) for one in ("with its configs", "ckpt, told from its shapes")),
    ],
)
def test_every_layout_holds_the_same_weights(layouts, layout: str) -> None:
    reference, path = layouts[layout]
    folder, other = all_modules(family_of(reference)), all_modules(family_of(path))
    assert set(folder) == {"denoiser", "vae", *TEXT}
    for component, module in folder.items():
        assert_equal(module.state_dict(), other[component].state_dict())


def test_both_layouts_give_the_same_outputs(sdxl) -> None:
    folder = outputs(family_of(sdxl.folder))
    assert_equal(folder, outputs(family_of(sdxl.single)))
    assert all(bool(tensor.isfinite().all()) for tensor in folder.values())


def test_latents_are_the_scaled_mean(sdxl) -> None:
    family = family_of(sdxl.single)
    encoders = family.load_encoders(CPU, only=("vae",))
    pixels = torch.rand(3, 64, 128) * 2 - 1
    with torch.no_grad():
        posterior: Any = encoders["vae"].encode(pixels[None]).latent_dist
    assert torch.equal(family.encode_image(encoders, pixels)["latents"][None], posterior.mode() * 0.13025)


# -- as diffusers' pipeline ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline(sdxl) -> Any:
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(sdxl.folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize(("clip_skip", "theirs"), [(1, None), (2, 0)])
@pytest.mark.parametrize("layout", ["folder", "single"])
def test_the_text_encoders_agree_with_the_pipeline(
    sdxl, pipeline: Any, layout: str, clip_skip: int, theirs: int | None
) -> None:
    family = family_of(getattr(sdxl, layout), clip_skip=clip_skip)
    encoders = family.load_encoders(CPU)
    for caption in CAPTIONS:
        with torch.no_grad():
            embeds, _, pooled, _ = pipeline.encode_prompt(
                caption, device="cpu", do_classifier_free_guidance=False, clip_skip=theirs
            )
        ours = conditioning(family, encoders, caption)
        assert (ours["prompt_embeds"] - embeds).abs().max() <= 1e-6
        assert (ours["text_embeds"] - pooled).abs().max() <= 1e-6
        assert ours["prompt_embeds"].std() > 0.1 < ours["text_embeds"].std()


def test_more_layers_are_skipped_where_there_are_more(narrow_sdxl) -> None:
    family, skipping = family_of(narrow_sdxl.folder), family_of(narrow_sdxl.folder, clip_skip=4)
    encoders = family.load_encoders(CPU, only=TEXT)
    whole, cut = conditioning(family, encoders, CAPTIONS[0]), conditioning(skipping, encoders, CAPTIONS[0])
    assert torch.equal(whole["text_embeds"], cut["text_embeds"])  # the pooled output is that of the last layer
    tokens = family.collate([family.tokenize(CAPTIONS[0])])
    first: Any = encoders["text_encoder"]
    with torch.no_grad():
        layers = first(input_ids=tokens["text_encoder_ids"], output_hidden_states=True).hidden_states
    width = layers[0].shape[-1]
    assert torch.equal(cut["prompt_embeds"][..., :width], layers[-4])
    assert torch.equal(whole["prompt_embeds"][..., :width], layers[-2])


def test_the_unet_gets_what_the_pipeline_gives_it(sdxl, pipeline: Any) -> None:
    family = family_of(sdxl.single)
    models, encoders = family.load_models(trained=[], dtype=torch.float32, to=CPU), family.load_encoders(CPU)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    ours = conditioning(family, encoders, CAPTIONS[0])
    time_ids = pipeline._get_add_time_ids(
        original_size=(70, 90),
        crops_coords_top_left=(3, 5),
        target_size=(64, 64),
        dtype=torch.float32,
        text_encoder_projection_dim=pipeline.text_encoder_2.config.projection_dim,
    )
    with torch.no_grad():
        embeds, _, pooled, _ = pipeline.encode_prompt(CAPTIONS[0], device="cpu", do_classifier_free_guidance=False)
        theirs = pipeline.unet(
            latents,
            500,
            encoder_hidden_states=embeds,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
        ).sample
        assert torch.equal(ours["time_ids"], time_ids)
        assert torch.allclose(family.predict(models, latents, torch.tensor([500]), ours), theirs, atol=1e-5)


# -- tokens ----------------------------------------------------------------------------------------


def test_the_second_tokenizer_pads_with_0_and_keeps_the_exclamation_mark(sdxl, tmp_path: Path) -> None:
    """transformers takes every "!" of a caption for padding, as the tokenizer of the folder pads with it."""
    from transformers import CLIPTokenizer

    saved = shutil.copytree(sdxl.folder, tmp_path / "saved")
    theirs = CLIPTokenizer.from_pretrained(sdxl.folder / "tokenizer_2", local_files_only=True)
    shutil.rmtree(saved / "tokenizer_2")
    theirs.save_pretrained(saved / "tokenizer_2")
    published = shutil.copytree(sdxl.folder, tmp_path / "published")
    config = json.loads((published / "tokenizer_2" / "tokenizer_config.json").read_text())
    token = {"content": "!", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    config["added_tokens_decoder"] = {"0": {**token, "special": True}}
    (published / "tokenizer_2" / "tokenizer_config.json").write_text(json.dumps(config))
    for path in (sdxl.folder, sdxl.single, saved, published):
        tokens = family_of(path).tokenize("a ring! red")
        first, second = tokens["text_encoder_ids"].tolist(), tokens["text_encoder_2_ids"].tolist()
        assert 0 not in first
        end = first.index(first[-1])
        assert second == [*first[: end + 1], *[0] * (76 - end)]
    assert theirs("a ring! red")["input_ids"].count(0) == 1


def test_the_marks_of_the_vocabulary(narrow_sdxl) -> None:
    tokens = family_of(narrow_sdxl.single).tokenize("a photo of a cat!")
    assert tokens["text_encoder_ids"][:9].tolist() == [49406, 320, 1125, 539, 320, 2368, 256, 49407, 49407]
    assert tokens["text_encoder_2_ids"][:9].tolist() == [49406, 320, 1125, 539, 320, 2368, 256, 49407, 0]


# -- sizes -----------------------------------------------------------------------------------------


def test_sizes_are_height_before_width(sdxl) -> None:
    found = family_of(sdxl.folder).example_inputs(example(Size(1920, 1080), Offset(128, 7), Size(1344, 768)))
    assert found["time_ids"].tolist() == [1080, 1920, 7, 128, 768, 1344]


def test_sizes_are_exact_in_any_precision(sdxl) -> None:
    """bfloat16 has no 1023."""
    family = family_of(sdxl.folder)
    models = family.load_models(trained=[], dtype=torch.bfloat16, to=CPU)
    embedded: list[Tensor] = []
    models["denoiser"].add_time_proj.register_forward_hook(lambda _, inputs, output: embedded.append(inputs[0].clone()))  # type: ignore[union-attr]
    found = conditioning(family, family.load_encoders(CPU), "a")
    predictions = []
    for side in (1023, 1024):
        found["time_ids"][0, 0] = side
        with torch.no_grad():
            predictions.append(family.predict(models, torch.zeros(1, 4, 8, 8), torch.tensor([500]), found))
    assert [tensor.dtype for tensor in predictions] == [torch.bfloat16] * 2
    assert [tensor.flatten()[0].item() for tensor in embedded] == [1023, 1024]
    assert not torch.equal(*predictions)


# -- targets ---------------------------------------------------------------------------------------


def test_targets_of_the_real_model_are_those_of_sd_scripts(sdxl) -> None:
    models = {
        "denoiser": ldm.unet_builder()(usual_config("unet")),
        "text_encoder": clip.text_builder()(usual_config("text_encoder")),
        "text_encoder_2": clip.text_builder("CLIPTextModelWithProjection")(usual_config("text_encoder_2")),
    }
    targets = family_of(sdxl.folder).target_modules(models)
    linear = [one for one in targets if isinstance(one.module, nn.Linear) and ".attentions." in one.name]
    assert len(linear) == 722
    counts = [sum(one.component == component for one in targets) for component in models]
    assert counts == [788, 72, 192]
    assert [one.component for one in targets] == [
        name for name, count in zip(models, counts, strict=True) for _ in range(count)
    ]
    published = name_table("sdxl").targets
    assert {one.name for one in targets} == published.keys()
    assert all(published[one.name].layer == one.spec for one in targets)


def test_the_last_layer_counts_through_the_pooled_output_of_the_second_alone(sdxl) -> None:
    """The first text encoder's last layer is in sd-scripts' files too, and stays as it was begun."""
    family = family_of(sdxl.folder)
    models = family.load_models(trained=TEXT, dtype=torch.float32, to=CPU)
    targets = {one.name: one.module for one in family.target_modules(models) if ".layers.1.mlp.fc2" in one.name}
    for layer in targets.values():
        layer.weight.requires_grad_(True)
    row = {**family.tokenize("a red circle"), **family.example_inputs(EXAMPLE)}
    found = family.conditioning(models, family.collate([row]))
    (found["prompt_embeds"].sum() + found["text_embeds"].sum()).backward()
    reached = {name.partition(".")[0]: layer.weight.grad is not None for name, layer in targets.items()}
    assert reached == {"text_encoder": False, "text_encoder_2": True}


@pytest.mark.ci
def test_nothing_is_fetched(sdxl, narrow_sdxl, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    for call in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(f"socket.socket.{call}", refused)
    monkeypatch.setattr("socket.getaddrinfo", refused)
    for path in (sdxl.folder, sdxl.single):
        outputs(family_of(path))
    family_of(narrow_sdxl.single).tokenize("a")
