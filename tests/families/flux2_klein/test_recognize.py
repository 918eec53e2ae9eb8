"""FLUX.2 klein among base models, by its folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorasmith.errors import ModelError
from lorasmith.families.recognize import recognize
from tests.families.flux2_klein.miniature import make_model, make_split


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("flux2_klein") / "model")


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
    assert (weights.family, weights.layout, weights.distilled) == ("flux2_klein", "diffusers", "")
    assert (weights.noise.prediction, weights.resolution) == ("flow", 1024)
    assert (weights.size_multiple, weights.bucket_step, weights.max_clip_skip) == (16, 64, None)


def test_the_distilled_model_is_refused_with_the_reason(folder: Path) -> None:
    """Its files have the names and shapes of the base model's: only the pipeline's own config tells them apart."""
    changed(folder / "model_index.json", lambda index: index.update(is_distilled=True))
    with pytest.raises(ModelError, match="model_turbo") as error:
        recognize(folder)
    assert error.value.fields["base"] == "FLUX.2 klein Base"


@pytest.mark.parametrize(
    ("pipeline", "code", "found"),
    [
        ("Flux2Pipeline", "model_other_family", "FLUX.2 dev"),
        ("Flux2KleinKVPipeline", "model_form_unread", "FLUX.2 klein"),
    ],
)
def test_its_relatives_are_others(folder: Path, pipeline: str, code: str, found: str) -> None:
    changed(folder / "model_index.json", lambda index: index.update(_class_name=pipeline))
    with pytest.raises(ModelError, match=code) as error:
        recognize(folder)
    assert error.value.fields["found"] == found


WRONG: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "channels": ("transformer/config.json", lambda config: config.update(in_channels=32)),
    "text": ("transformer/config.json", lambda config: config.update(joint_attention_dim=32)),
    "guidance": ("transformer/config.json", lambda config: config.pop("guidance_embeds")),
    "patches": ("vae/config.json", lambda config: config.update(patch_size=[1, 1])),
    "levels": ("vae/config.json", lambda config: config.update(block_out_channels=None)),
    "latents": ("vae/config.json", lambda config: config.update(latent_channels="4")),
    "no text": ("text_encoder/config.json", lambda config: config.pop("vocab_size")),
    "a tap behind the final norm": ("text_encoder/config.json", lambda config: config.update(num_hidden_layers=27)),
}


@pytest.mark.parametrize("name", WRONG)
def test_configs_that_do_not_fit_each_other_are_refused(folder: Path, name: str) -> None:
    file, change = WRONG[name]
    changed(folder / file, change)
    with pytest.raises(ModelError, match="model_damaged"):
        recognize(folder)


@pytest.mark.parametrize(
    ("name", "assumed"), [("flux-2-klein-base-9b", ""), ("flux2_klein_4b_base_bf16", ""), ("mine", "FLUX.2 klein Base")]
)
def test_a_single_file_is_of_the_base_model_by_its_name(model: Path, tmp_path: Path, name: str, assumed: str) -> None:
    weights = recognize(make_split(model, tmp_path / "models", name=name))
    assert (weights.family, weights.layout, weights.assumed) == ("flux2_klein", "single_file", assumed)
    assert weights.replaced.keys() == {"text_encoder", "vae"}
    assert weights.denoiser_parameters == recognize(model).denoiser_parameters


@pytest.mark.parametrize("name", ["flux-2-klein-4b", "klein9b-fp32", "my-klein-distilled"])
def test_a_single_file_with_the_name_of_the_distilled_model_is_refused(model: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="model_turbo"):
        recognize(make_split(model, tmp_path / "models", name=name))


def test_parts_that_are_nowhere_are_named(model: Path, tmp_path: Path) -> None:
    file = make_split(model, tmp_path / "models")
    (tmp_path / "models" / "vae" / "flux2-vae.safetensors").unlink()
    with pytest.raises(ModelError, match="model_parts_missing") as error:
        recognize(file)
    assert "FLUX.2" in str(error.value.fields["missing"])
