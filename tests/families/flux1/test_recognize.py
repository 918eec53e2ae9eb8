"""FLUX.1 among base models, by its folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorasmith.errors import ModelError
from lorasmith.families.recognize import recognize
from tests.families.flux1.miniature import make_model, make_split
from tests.families.tiny import write_header


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("flux1") / "model")


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    """Weights of the model, with configs of its own."""
    for file in model.rglob("*"):
        if file.is_file():
            copy = tmp_path / "model" / file.relative_to(model)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == ".json":
                copy.write_bytes(file.read_bytes())
            else:
                copy.symlink_to(file)
    return tmp_path / "model"


def changed(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_what_it_is_follows_from_headers_and_configs(folder: Path) -> None:
    weights = recognize(folder)
    assert (weights.family, weights.layout, weights.distilled) == ("flux1", "diffusers", "")
    assert (weights.noise.prediction, weights.resolution) == ("flow", 1024)
    assert (weights.size_multiple, weights.bucket_step, weights.max_clip_skip) == (16, 64, None)


def test_schnell_is_refused_with_the_reason(folder: Path) -> None:
    """It takes no guidance: the config of its transformer says so."""
    changed(folder / "transformer" / "config.json", lambda config: config.update(guidance_embeds=False))
    with pytest.raises(ModelError, match="model_turbo") as error:
        recognize(folder)
    assert error.value.fields["base"] == "FLUX.1 dev"


@pytest.mark.parametrize(
    ("pipeline", "code", "found"),
    [
        ("FluxKontextPipeline", "model_edits_pictures", "FLUX.1 Kontext"),
        ("FluxFillPipeline", "model_inpainting", "FLUX.1 Fill"),
        ("FluxControlPipeline", "model_other_family", "FLUX.1 Canny or Depth"),
    ],
)
def test_its_relatives_are_named(folder: Path, pipeline: str, code: str, found: str) -> None:
    changed(folder / "model_index.json", lambda index: index.update(_class_name=pipeline))
    with pytest.raises(ModelError, match=code) as error:
        recognize(folder)
    assert error.value.fields["found"] == found


WRONG: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "channels": ("transformer/config.json", lambda config: config.update(in_channels=96)),
    "text": ("transformer/config.json", lambda config: config.update(joint_attention_dim=32)),
    "vector": ("transformer/config.json", lambda config: config.update(pooled_projection_dim=32)),
    "levels": ("vae/config.json", lambda config: config.update(block_out_channels=None)),
    "shift": ("vae/config.json", lambda config: config.update(shift_factor=None)),
    "no CLIP": ("text_encoder/config.json", lambda config: config.pop("vocab_size")),
    "no T5": ("text_encoder_2/config.json", lambda config: config.pop("vocab_size")),
}


@pytest.mark.parametrize("name", WRONG)
def test_configs_that_do_not_fit_each_other_are_refused(folder: Path, name: str) -> None:
    file, change = WRONG[name]
    changed(folder / file, change)
    with pytest.raises(ModelError, match="model_damaged"):
        recognize(folder)


@pytest.mark.parametrize(("name", "assumed"), [("flux1-dev", ""), ("flux1-krea-dev", ""), ("mine", "FLUX.1 dev")])
def test_a_single_file_is_of_dev_by_its_name(model: Path, tmp_path: Path, name: str, assumed: str) -> None:
    weights = recognize(make_split(model, tmp_path / "models", name=name))
    assert (weights.family, weights.layout, weights.assumed) == ("flux1", "single_file", assumed)
    assert weights.replaced.keys() == {"text_encoder", "text_encoder_2", "vae"}
    assert weights.denoiser_parameters == recognize(model).denoiser_parameters


def test_a_file_that_the_user_states_to_be_distilled_is_refused(model: Path, tmp_path: Path) -> None:
    file = make_split(model, tmp_path / "models", name="mine")
    assert recognize(file, form="base").assumed == ""
    with pytest.raises(ModelError, match="model_turbo"):
        recognize(file, form="distilled")


def test_a_single_file_of_kontext_is_known_by_its_name(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="model_edits_pictures"):
        recognize(make_split(model, tmp_path / "models", name="flux1-dev-kontext"))


@pytest.mark.parametrize(
    ("change", "code", "found"),
    [
        ({"guidance_in.in_layer.weight": None, "guidance_in.out_layer.weight": None}, "model_turbo", None),
        ({"img_in.weight": (3072, 384)}, "model_other_family", "FLUX.1 Fill"),
        ({"img_in.weight": (3072, 128)}, "model_other_family", "FLUX.1 Canny or Depth"),
        (
            {"distilled_guidance_layer.in_proj.weight": (8, 8), "vector_in.in_layer.weight": None},
            "model_other_family",
            "Chroma",
        ),
    ],
)
def test_files_of_its_relatives_are_named(
    tmp_path: Path, change: dict[str, tuple[int, ...] | None], code: str, found: str | None
) -> None:
    """By their headers: names are those of dev."""
    shapes: dict[str, tuple[int, ...]] = {
        "img_in.weight": (3072, 64),
        "vector_in.in_layer.weight": (3072, 768),
        "guidance_in.in_layer.weight": (3072, 256),
        "guidance_in.out_layer.weight": (3072, 3072),
        "double_blocks.0.img_attn.qkv.weight": (9216, 3072),
        "single_blocks.0.linear1.weight": (21504, 3072),
        "time_in.in_layer.weight": (3072, 256),
    }
    stored = {name: shape for name, shape in {**shapes, **change}.items() if shape is not None}
    with pytest.raises(ModelError, match=code) as error:
        recognize(write_header(tmp_path / "flux1-dev.safetensors", stored))
    assert error.value.fields.get("found") == found
