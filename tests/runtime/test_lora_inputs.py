from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorasmith.config import AdapterConfig, RunConfig
from lorasmith.errors import ConfigError, ModelError
from lorasmith.families.headers import read_header
from lorasmith.inputs import base_weights
from lorasmith.lora_files.reader import read_lora
from lorasmith.runtime.lora_inputs import Warnings, check_base_weights, check_init_from, sizes_from
from lorasmith.session.initial_state import read_init_from
from tests.families.flux1.miniature import make_model, make_split
from tests.lora_files.written import saved
from tests.lora_tools.flow import FlowMade, lora, with_clip
from tests.lora_tools.made import tensors_of, write

BY_FILE = AdapterConfig(dim_from_weights=True)


@pytest.mark.parametrize(("alpha", "expected"), [(1.5, 1.5), (None, 2.0)])
def test_every_layer_has_the_rank_and_alpha_of_the_file(tmp_path: Path, alpha: float | None, expected: float) -> None:
    """A file without alphas means the rank."""
    file = read_lora(write(tmp_path / "a.safetensors", tensors_of(rank=2, alpha=alpha)))
    taken = sizes_from(file, BY_FILE, {}, "sd15")
    sizes = taken["adapter", "layer_sizes"]
    assert sorted(sizes) == [
        "denoiser.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        "denoiser.mid_block.attentions.0.transformer_blocks.0.attn1.to_k",
        "text_encoder.text_model.encoder.layers.0.mlp.fc1",
    ]
    assert set(sizes.values()) == {(2, expected)}
    assert (taken["adapter", "rank"], taken["adapter", "alpha"]) == (2, expected)
    assert sizes_from(file, AdapterConfig(), {}, "sd15") == {}


def test_layers_that_are_trained_as_one_have_the_ranks_of_their_pieces(tmp_path: Path) -> None:
    block = "transformer_blocks.0.attn"
    ranks = {
        f"transformer.{block}.{name}": rank for name, rank in {"to_q": 2, "to_k": 3, "to_v": 4, "to_add_out": 5}.items()
    }
    tensors = {
        f"{name}.lora_{matrix}.weight": torch.ones(shape)
        for name, rank in ranks.items()
        for matrix, shape in {"A": (rank, 32), "B": (32, rank)}.items()
    }
    save_file(tensors, tmp_path / "a.safetensors")
    taken = sizes_from(read_lora(tmp_path / "a.safetensors"), BY_FILE, {}, "flux2_klein")
    assert taken["adapter", "layer_sizes"] == {
        f"denoiser.{block}.to_qkv": (9, 9),
        f"denoiser.{block}.to_add_out": (5, 5),
    }


@pytest.mark.parametrize(
    "setting", [{"alpha": 2.0}, {"conv_rank": 4}, {"block_ranks": {"mid_block": 4}}, {"kind": "loha"}]
)
def test_sizes_are_set_once(tmp_path: Path, setting: dict[str, object]) -> None:
    file = read_lora(write(tmp_path / "a.safetensors"))
    adapter = BY_FILE.model_copy(update=setting)
    values = {("adapter", field): value for field, value in setting.items()}
    with pytest.raises(ConfigError) as caught:
        sizes_from(file, adapter, values, "sd15")
    assert caught.value.code == "dim_from_weights_with"


def test_sizes_of_a_layer_that_the_family_lacks(tmp_path: Path) -> None:
    pair = {"lora_down.weight": torch.ones(2, 320), "lora_up.weight": torch.ones(320, 2)}
    foreign = {f"lora_unet_nowhere.{name}": tensor for name, tensor in pair.items()}
    file = read_lora(write(tmp_path / "a.safetensors", {**tensors_of(), **foreign}))
    with pytest.raises(ModelError, match="init_from_foreign") as caught:
        sizes_from(file, BY_FILE, {}, "sd15")
    assert caught.value.fields == {"key": "lora_unet_nowhere", "family": "SD 1.x"}


def of_flux1(path: Path) -> Path:
    """A LoRA of FLUX.1 as sd-scripts writes it with its text encoder: a layer of the denoiser, and one of CLIP-L of
    another rank."""
    layers = {"lora_unet_double_blocks_0_img_mlp_0": 2, "lora_te1_text_model_encoder_layers_0_mlp_fc1": 4}
    widths = {"lora_unet_double_blocks_0_img_mlp_0": (3072, 12288)}
    tensors = {}
    for name, rank in layers.items():
        inputs, outputs = widths.get(name, (768, 3072))
        tensors[f"{name}.lora_down.weight"] = torch.ones(rank, inputs)
        tensors[f"{name}.lora_up.weight"] = torch.ones(outputs, rank)
        tensors[f"{name}.alpha"] = torch.tensor(1.0)
    save_file(tensors, path)
    return path


def test_layers_of_a_text_encoder_that_is_never_trained_are_left_out(tmp_path: Path) -> None:
    """--train-text-encoder, which other families are asked for, is refused for FLUX.1."""
    path = of_flux1(tmp_path / "a.safetensors")
    part, notices = check_init_from(read_lora(path), AdapterConfig(), "flux1")
    assert notices == (("init_from_text_left_out", {"path": str(path), "count": 1}),)
    assert part is not None and (part.rank, part.has_text_encoder) == (2, False)
    tensors = read_init_from(AdapterConfig(init_from=str(path)), "flux1")
    assert {name.partition(".")[0] for name in tensors} == {"denoiser"}


def test_a_lora_that_cannot_be_merged_is_refused_before_the_run_begins(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "folder")
    file = make_split(folder, tmp_path / "models")
    whole = lora(FlowMade("flux1", folder, file), tmp_path / "flux1", "comfyui")
    assert whole and _notices(folder, tmp_path / "flux1") == ()
    row = {"lora_A.weight": torch.ones(2, 32), "lora_B.weight": torch.ones(32, 2)}
    deep = {f"diffusion_model.single_blocks.9.linear2.{suffix}": tensor for suffix, tensor in row.items()}
    for name, tensors, code in (
        ("sd15", tensors_of(), "tool_other_family"),
        ("deep", load_file(tmp_path / "flux1") | deep, "tool_layer_missing"),
    ):
        with pytest.raises(ModelError, match=code):
            _notices(folder, saved(tensors, tmp_path / name))
    fp8 = {name: t.to(torch.float8_e4m3fn) if t.ndim == 2 else t for name, t in load_file(file).items()}
    saved(fp8, file, read_header(file).metadata)
    with pytest.raises(ModelError, match="tool_weight_type"):
        _notices(file, tmp_path / "flux1")


def test_layers_of_a_text_encoder_beside_the_base_model_are_not_merged_and_a_notice_counts_them(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "folder")
    file = make_split(folder, tmp_path / "models")
    lora(FlowMade("flux1", folder, file), tmp_path / "plain", "kohya")
    path = saved(with_clip(load_file(tmp_path / "plain"), folder), tmp_path / "lora")
    assert _notices(folder, path) == ()  # they are merged too
    fields = {"path": str(path), "count": 12}
    assert _notices(file, path) == (("base_weights_text_left_out", {**fields, "model": str(file)}),)
    clip = next((tmp_path / "models").rglob("clip_l*"))
    other = _notices(folder, path, ("model", "text_encoder"), (str(clip),))
    assert other == (("base_weights_text_left_out", {**fields, "model": str(folder)}),)


def _notices(model: Path, lora: Path, *option: Any) -> Warnings:
    values = {("model", "base_model"): str(model), ("model", "base_weights"): (lora.name,)}
    config = RunConfig().with_values(values | (dict([option]) if option else {}))
    return check_base_weights(config.model, base_weights(config), lora.parent)
