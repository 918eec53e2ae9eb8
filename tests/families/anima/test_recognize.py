"""Anima among base models, by its folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lorasmith.errors import ModelError
from lorasmith.families import load_family
from lorasmith.families.recognize import recognize
from lorasmith.families.weights import NoiseRequest, PartFiles
from tests.families.anima.miniature import make_model, make_split
from tests.families.tiny import published, write_header


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def changed(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_what_it_is_follows_from_headers_and_configs(folder: Path) -> None:
    weights = recognize(folder)
    assert (weights.family, weights.layout, weights.distilled) == ("anima", "diffusers", "")
    assert (weights.noise.prediction, weights.resolution) == ("flow", 1024)
    assert (weights.size_multiple, weights.bucket_step, weights.max_clip_skip) == (16, 64, None)
    assert weights.denoiser_parameters is not None and weights.denoiser_parameters > 50_000
    with pytest.raises(ModelError, match="model_prediction"):
        recognize(folder, asked=NoiseRequest("epsilon"))
    (folder / "modular_model_index.json").rename(folder / "model_index.json")
    assert recognize(folder).family == "anima"


@pytest.mark.parametrize("missing", ["text_conditioner/config.json", "t5_tokenizer", "transformer"])
def test_an_incomplete_folder_is_named(folder: Path, missing: str) -> None:
    (folder / missing).rename(folder / "elsewhere")
    with pytest.raises(ModelError, match="model_incomplete"):
        recognize(folder)


WRONG: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "patches": ("transformer", lambda config: config.update(patch_size=[1, 4, 4])),
    "learned positions": ("transformer", lambda config: config.pop("extra_pos_embed_type")),
    "no padding mask": ("transformer", lambda config: config.update(concat_padding_mask=False)),
    "channels": ("transformer", lambda config: config.update(in_channels=16)),
    "text": ("transformer", lambda config: config.update(text_embed_dim=32)),
    "states": ("text_conditioner", lambda config: config.update(source_dim=32)),
    "T5's vocabulary": ("text_conditioner", lambda config: config.update(target_vocab_size=32_000)),
    "length of texts": ("text_conditioner", lambda config: config.update(min_sequence_length=256)),
    "means": ("vae", lambda config: config.update(latents_mean=[0.1, 0.2])),
    "levels": ("vae", lambda config: config.update(temperal_downsample=None)),
    "vocabulary": ("text_encoder", lambda config: config.pop("vocab_size")),
}


@pytest.mark.parametrize("name", WRONG)
def test_configs_that_do_not_fit_each_other_are_refused(folder: Path, name: str) -> None:
    component, change = WRONG[name]
    changed(folder / component / "config.json", change)
    with pytest.raises(ModelError, match="model_damaged"):
        recognize(folder)


def test_comfyuis_files_hold_the_tensors_of_the_folder(folder: Path, tmp_path: Path) -> None:
    file = make_split(folder, tmp_path / "models", prefix="model.diffusion_model.")
    weights = recognize(file)
    assert (weights.family, weights.layout, weights.assumed) == ("anima", "single_file", "")
    assert {name: part.asked.name for name, part in weights.replaced.items()} == {
        "text_encoder": "qwen_3_06b_base.safetensors",
        "vae": "qwen_image_vae.safetensors",
    }
    whole, split = load_family(recognize(folder)), load_family(weights)
    cpu = torch.device("cpu")
    for ours, theirs in (
        (whole.load_encoders(cpu), split.load_encoders(cpu)),
        *((family.load_models(trained=(), dtype=torch.bfloat16, to=cpu) for family in (whole, split)),),
    ):
        for name, module in ours.items():
            expected, found = module.state_dict(), theirs[name].state_dict()
            assert expected.keys() == found.keys()
            assert all(torch.equal(tensor, found[key]) for key, tensor in expected.items())
    ids, others = whole.tokenize("a red ring"), split.tokenize("a red ring")
    assert all(torch.equal(tokens, others[name]) for name, tokens in ids.items())


def test_the_conditioner_of_another_file_is_none_that_a_denoiser_lacks(folder: Path, tmp_path: Path) -> None:
    """A folder's parts may be others; a text encoder of another size is refused."""
    weights = recognize(folder, parts=PartFiles(text_encoders=(folder / "text_conditioner",)))
    assert weights.source("text_conditioner") == folder / "text_conditioner"
    with pytest.raises(ModelError, match="part_other"):
        recognize(folder, parts=PartFiles(text_encoders=(folder / "vae",)))
    file = make_split(folder, tmp_path / "models")
    (tmp_path / "models" / "text_encoders" / "qwen_3_06b_base.safetensors").unlink()
    with pytest.raises(ModelError, match="model_parts_missing") as error:
        recognize(file)
    assert error.value.fields["missing"] == "Qwen3-0.6B (`--text-encoder`)"


def test_a_pickle_of_it_is_refused_and_cosmos_predict2_is_named(tmp_path: Path) -> None:
    name = "blocks.0.adaln_modulation_self_attn.1.weight"
    torch.save({"llm_adapter.embed.weight": torch.zeros(1, 12), name: torch.zeros(1)}, tmp_path / "anima.ckpt")
    with pytest.raises(ModelError, match="model_form_unread") as error:
        load_family(recognize(tmp_path / "anima.ckpt"))
    assert error.value.fields["found"] == "Anima"
    with pytest.raises(ModelError, match="model_other_family") as error:
        recognize(write_header(tmp_path / "cosmos.safetensors", {f"model.diffusion_model.{name}": (256, 2048)}))
    assert error.value.fields["found"] == "Cosmos"


@pytest.mark.parametrize(("name", "assumed"), [("anima_3.8B", True), ("anima_3.8B_qwen3_0.6b", False)])
def test_the_deepest_is_said_to_be_trained_with_qwen3_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, assumed: bool
) -> None:
    monkeypatch.setattr("lorasmith.families.anima.recognize._DEEP", 2)
    weights = recognize(make_split(folder, tmp_path / "models", name=name))
    assert bool(weights.assumed) is assumed and weights.depths == {"denoiser.transformer_blocks": 2}


@pytest.mark.parametrize(("version", "metadata"), [("1.0", True), ("1.1", False), ("1.1", True)])
def test_the_one_that_qwen35_reads_captions_for_is_known_by_its_header(
    folder: Path, tmp_path: Path, version: str, metadata: bool
) -> None:
    """Whatever its name; its connector is no part of the denoiser."""
    file = make_split(folder, tmp_path / "models", name="anima_qwen3_0.6b")
    tensors, described = load_file(file), read_metadata(file)
    if version == "1.1":
        tensors["net.anima_v2_connector.semantic_resampler.query_tokens"] = torch.zeros(1, 64, 2048)
    save_file(tensors, file, {**described, **({"qwen35_joint_dit_blocks": "[0, 1]"} if metadata else {})})
    with pytest.raises(ModelError, match="model_second_text_encoder"):
        recognize(file)
    weights = recognize(file, form="base")
    assert (weights.family, weights.assumed) == ("anima", "")
    family = load_family(weights)
    family.load_models(trained=(), dtype=torch.float32, to=torch.device("cpu"))


def test_the_published_one_is_known(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="model_second_text_encoder") as error:
        recognize(write_header(tmp_path / "model.safetensors", published("anima_38b")))
    assert error.value.fields["found"] == "Anima-3.8B"


def read_metadata(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as opened:
        return opened.metadata() or {}
