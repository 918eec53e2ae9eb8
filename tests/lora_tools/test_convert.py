"""A converted file has the same effect: layer by layer, through the readers of the programs that have the names."""

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import UNet2DConditionModel
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor
from transformers import CLIPTextModel

from lorasmith.errors import InputError, ModelError
from lorasmith.lora_files.peft_settings import WEIGHTS_FILE
from lorasmith.lora_files.reader import read_lora
from lorasmith.lora_tools.combine import Source, combine
from lorasmith.lora_tools.convert import STYLES, Style, convert
from lorasmith.lora_tools.inspection import inspect_lora
from lorasmith.lora_tools.low_rank import Cut
from tests.families.flux1.miniature import make_model as make_flux1
from tests.lora_files.written import ALPHA, RANK, WRITERS, changes, saved, unet_with_lora
from tests.lora_tools.flow import FlowMade, clip_changes, with_clip
from tests.lora_tools.flow import lora as flow_lora
from tests.lora_tools.made import LAYERS, METADATA, tensors_of, write


def by_formula(path: Path) -> dict[str, Tensor]:
    """The change of each layer of a file in the names of sd-scripts: alpha / rank * up @ down."""
    stored = {key: tensor.float() for key, tensor in safetensors.torch.load_file(path).items()}
    modules = {key.partition(".")[0] for key in stored}
    found = {}
    for module in modules:
        up, down, alpha = (stored[f"{module}.{end}"] for end in ("lora_up.weight", "lora_down.weight", "alpha"))
        found[module] = alpha / len(down) * (up.flatten(1) @ down.flatten(1))
    return found


def through_diffusers(path: Path, model: Path) -> dict[str, Tensor]:
    unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    before = {name: weight.clone() for name, weight in unet.state_dict().items()}
    tensors = safetensors.torch.load_file(path)
    unet.load_lora_adapter({key: tensor.float() for key, tensor in tensors.items()}, prefix="unet")
    unet.fuse_lora()
    return differences(before, unet.state_dict())


def through_peft(folder: Path, model: Path) -> dict[str, Tensor]:
    unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    before = {name: weight.clone() for name, weight in unet.state_dict().items()}
    merged = PeftModel.from_pretrained(unet, folder / "unet").merge_and_unload()
    return differences(before, merged.state_dict())


def differences(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, Tensor]:
    """Path -> what has changed of its weight."""
    plain = {name.replace(".base_layer", ""): weight for name, weight in after.items() if "lora_" not in name}
    assert plain.keys() == before.keys()
    changed = {name: plain[name] - before[name] for name in before if not torch.equal(plain[name], before[name])}
    return {f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}": change for name, change in changed.items()}


READERS: dict[Style, Callable[[Path, Path], dict[str, Tensor]]] = {
    "kohya": lambda path, _model: by_formula(path),
    "comfyui": lambda path, _model: by_formula(path),
    "diffusers": through_diffusers,
    "peft": through_peft,
}


@pytest.mark.parametrize("naming", WRITERS)
@pytest.mark.parametrize("style", STYLES)
def test_the_effect_of_every_layer_stays(nano: Path, tmp_path: Path, naming: str, style: Style) -> None:
    unet = unet_with_lora(nano)
    out = tmp_path / "out"
    made = convert(WRITERS[naming](unet, tmp_path), out, to=style)
    expected = {f"lora_unet_{path.replace('.', '_')}": change for path, change in changes(unet).items()}
    found = READERS[style](out, nano)
    assert made.layers == len(expected) and found.keys() == expected.keys()
    for name, change in expected.items():
        assert torch.allclose(found[name], change, atol=1e-6)


def mixed(path: Path, dtype: torch.dtype) -> tuple[Path, dict[str, Tensor]]:
    """A file whose layers differ in rank and alpha, and of which a layer has no alpha; and its changes."""
    tensors, expected = {}, {}
    for (name, _), rank, alpha in zip(LAYERS.items(), (2, 4, 8), (1.0, 3.0, None), strict=True):
        own = tensors_of(rank=rank, alpha=alpha, seed=rank)
        tensors |= {
            key: tensor if key.endswith("alpha") else tensor.to(dtype)
            for key, tensor in own.items()
            if key.startswith(f"{name}.")
        }
        up, down = (tensors[f"{name}.lora_{part}.weight"].float() for part in ("up", "down"))
        expected[name] = (1.0 if alpha is None else alpha / rank) * (up @ down)
    return write(path, tensors), expected


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float16, 2**-9), (torch.bfloat16, 2**-6)])
def test_a_part_gets_a_single_alpha(tmp_path: Path, dtype: torch.dtype, bound: float) -> None:
    path, expected = mixed(tmp_path / "in", dtype)
    made = convert(path, tmp_path / "out", to="kohya")
    file = read_lora(tmp_path / "out")
    assert {module.component: module.alpha for module in file.modules} == {"denoiser": 1.0, "text_encoder": 8.0}
    assert set(file.ranks) == {2, 4, 8} and (made.rounded > 0) == (dtype != torch.float32)
    for name, change in by_formula(tmp_path / "out").items():
        assert torch.allclose(change, expected[name], atol=bound)
    assert not {odd.code for odd in inspect_lora(tmp_path / "out").oddities}
    convert(path, tmp_path / "exact", to="kohya", precision="fp32")
    for name, change in by_formula(tmp_path / "exact").items():
        assert torch.allclose(change, expected[name], atol=1e-6)


@pytest.mark.parametrize("alpha", [-3.0, 0.0])
def test_a_part_without_a_positive_alpha_keeps_its_sign_and_its_zeros(tmp_path: Path, alpha: float) -> None:
    """Readers take a missing alpha, and many of them 0, for the rank: the file must have a positive one."""
    path = write(tmp_path / "in", tensors_of(rank=2, alpha=alpha))
    expected = by_formula(path)
    convert(path, tmp_path / "out", to="kohya")
    assert read_lora(tmp_path / "out").alphas.keys() == {2.0}
    for name, change in by_formula(tmp_path / "out").items():
        assert torch.allclose(change, expected[name], atol=1e-6)


def test_there_and_back_is_the_same(tmp_path: Path) -> None:
    """With a scale that is a power of two, to the bit, in half precision."""
    whole = tensors_of(rank=4, alpha=2.0)
    tensors = {key: value if "alpha" in key else (value * 64).round().half() / 64 for key, value in whole.items()}
    path = write(tmp_path / "in", tensors)
    expected = by_formula(path)
    convert(path, tmp_path / "diffusers", to="diffusers")
    assert convert(tmp_path / "diffusers", tmp_path / "back", to="kohya").rounded == 0
    found = by_formula(tmp_path / "back")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], change) for name, change in expected.items())


def test_a_small_scale_stays_in_half_precision(tmp_path: Path) -> None:
    tensors = tensors_of(rank=128, alpha=1.5)
    tensors = {key: tensor * 3e-3 if "up" in key else tensor for key, tensor in tensors.items()}
    path = write(tmp_path / "in", {key: value if "alpha" in key else value.half() for key, value in tensors.items()})
    expected = by_formula(path)
    convert(path, tmp_path / "diffusers", to="diffusers")
    convert(tmp_path / "diffusers", tmp_path / "back", to="kohya")
    for name, change in by_formula(tmp_path / "back").items():
        assert float((change - expected[name]).norm() / expected[name].norm()) < 2**-10


def test_numbers_beyond_the_data_type_are_refused(tmp_path: Path) -> None:
    tensors = {key: tensor * 1e6 if "up" in key else tensor for key, tensor in tensors_of().items()}
    path = write(tmp_path / "in", tensors)
    with pytest.raises(InputError, match="tool_beyond_range"):
        convert(path, tmp_path / "out", to="kohya", precision="fp16")
    assert not (tmp_path / "out").exists()


def test_metadata_are_kept_and_hashes_are_fresh(tmp_path: Path) -> None:
    metadata = {**METADATA, "ss_steps": "7", "sshs_model_hash": "old", "ss_network_dim": "2"}
    convert(write(tmp_path / "in", metadata=metadata), tmp_path / "out", to="kohya", precision="fp16")
    with safe_open(tmp_path / "out", framework="pt") as file:
        found = file.metadata()
    assert found["ss_steps"] == "7" and found["ss_network_dim"] == "2" and found["ss_network_alpha"] == "1.0"
    assert not inspect_lora(tmp_path / "out").oddities


def test_a_file_without_alphas_states_the_one_that_readers_take(tmp_path: Path) -> None:
    metadata = {**METADATA, "ss_network_alpha": "1.0", "ss_network_args": '{"rs_lora": "True"}'}
    convert(write(tmp_path / "in", metadata=metadata), tmp_path / "out", to="diffusers")
    found = read_lora(tmp_path / "out").metadata
    assert found["ss_network_alpha"] == "2.0" and "ss_network_args" not in found


def test_dora_does_not_become_a_lora_of_sd_scripts(tmp_path: Path) -> None:
    tensors = tensors_of() | {f"{name}.dora_scale": torch.ones(outputs, 1) for name, (outputs, _) in LAYERS.items()}
    metadata = {**METADATA, "ss_network_module": "lycoris.kohya", "ss_network_args": '{"dora_wd": "True"}'}
    convert(write(tmp_path / "in", tensors, metadata), tmp_path / "out", to="kohya")
    assert read_lora(tmp_path / "out").metadata.items() >= metadata.items()


def test_what_a_file_is_for_is_stated_if_it_was_not(tmp_path: Path) -> None:
    convert(write(tmp_path / "in", metadata={}), tmp_path / "out", to="kohya")
    assert read_lora(tmp_path / "out").metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"


def test_names_of_newer_text_encoders_are_repaired(tmp_path: Path) -> None:
    tensors = {key.replace("text_model_", ""): tensor for key, tensor in tensors_of().items()}
    convert(write(tmp_path / "in", tensors), tmp_path / "out", to="kohya")
    assert by_formula(tmp_path / "out").keys() == set(LAYERS)


def test_loha_keeps_its_tensors_under_the_names_of_sd_scripts(tmp_path: Path) -> None:
    shapes = {"hada_w1_a": (320, 2), "hada_w1_b": (2, 320), "hada_w2_a": (320, 2), "hada_w2_b": (2, 320)}
    path = "mid_block_attentions_0_transformer_blocks_0_attn1_to_k"
    tensors = {f"lycoris_{path}.{suffix}": torch.randn(shape) for suffix, shape in shapes.items()}
    source = saved({**tensors, f"lycoris_{path}.alpha": torch.tensor(1.0)}, tmp_path / "in")
    convert(source, tmp_path / "out", to="kohya")
    found = safetensors.torch.load_file(tmp_path / "out")
    for key, tensor in tensors.items():
        assert torch.equal(found[key.replace("lycoris_", "lora_unet_")], tensor)
    with pytest.raises(ModelError, match="tool_kind"):
        convert(source, tmp_path / "other", to="diffusers")


def test_nothing_is_overwritten_and_nothing_is_lost(tmp_path: Path) -> None:
    path = write(tmp_path / "in")
    with pytest.raises(InputError, match="tool_output_exists"):
        convert(path, path, to="kohya")
    with pytest.raises(InputError, match="tool_no_folder"):
        convert(path, tmp_path / "none" / "out", to="kohya")
    refused = {
        "tool_layers_unknown": {**tensors_of(), "bundle_emb.x": torch.ones(1)},
        "tool_layer_twice": {**tensors_of(), **doubled()},
        "tool_incomplete": {key: tensor for key, tensor in tensors_of().items() if "up" not in key},
        "tool_family": {"lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": torch.ones(1, 1)},
    }
    for code, tensors in refused.items():
        with pytest.raises(ModelError, match=code):
            convert(write(tmp_path / code, tensors), tmp_path / "out", to="kohya")
    assert not [name for name in tmp_path.iterdir() if "out" in name.name or "tmp" in name.name]


def doubled() -> dict[str, Tensor]:
    path = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    return {f"unet.{path}.lora_A.weight": torch.ones(2, 320), f"unet.{path}.lora_B.weight": torch.ones(320, 2)}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # which PEFT reads
def test_peft_loads_the_text_encoder(nano: Path, tmp_path: Path) -> None:
    model = CLIPTextModel.from_pretrained(nano / "text_encoder")
    path = "encoder.layers.0.self_attn.q_proj"
    before = model.get_submodule(path).weight.detach().clone()
    up, down = torch.ones(len(before), 2), torch.ones(2, before.shape[1])
    name = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    pair = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": torch.tensor(1.0)}
    convert(write(tmp_path / "in", pair), tmp_path / "out", to="peft")
    merged = PeftModel.from_pretrained(model, tmp_path / "out" / "text_encoder").merge_and_unload()
    assert torch.allclose(merged.get_submodule(path).weight, before + 0.5 * (up @ down), atol=1e-6)
    convert(tmp_path / "out" / "text_encoder" / "adapter_model.safetensors", tmp_path / "back", to="kohya")
    assert by_formula(tmp_path / "back").keys() == {name}


def test_the_settings_of_peft_hold_the_alphas(tmp_path: Path) -> None:
    path, _ = mixed(tmp_path / "in", torch.float32)
    convert(path, tmp_path / "out", to="peft")
    assert sorted(folder.name for folder in (tmp_path / "out").iterdir()) == ["text_encoder", "unet"]
    file = read_lora(tmp_path / "out" / "unet" / "adapter_model.safetensors")
    assert sorted((module.rank, module.alpha) for module in file.modules) == [(2, 1.0), (4, 3.0)]
    assert RANK * 2 == ALPHA  # the file of the other tests has a scale of its own


@pytest.mark.parametrize("prefix", ["lora_te1_", "lora_te_"])
def test_clip_of_flux1_is_carried_through(tmp_path: Path, prefix: str) -> None:
    """Of files that sd-scripts trained with it: there and back, resized, and as peft's own folder."""
    made = FlowMade("flux1", make_flux1(tmp_path / "folder"), tmp_path)
    flow_lora(made, tmp_path / "denoiser", "kohya")
    tensors = with_clip(safetensors.torch.load_file(tmp_path / "denoiser"), made.folder, prefix)
    source, changes = saved(tensors, tmp_path / "kohya"), clip_changes(tensors, prefix)
    for style in ("diffusers", "comfyui"):
        convert(source, tmp_path / style, to=style, precision="fp32")
        stored = safetensors.torch.load_file(tmp_path / style)
        for name, change in changes.items():
            dotted = next(key for key in stored if key.replace(".", "_") == f"text_encoder_{name}_lora_A_weight")
            assert dotted.startswith("text_encoder.text_model.encoder.layers.")
            product = stored[dotted.replace("lora_A", "lora_B")] @ stored[dotted]
            torch.testing.assert_close(product, change, rtol=1e-4, atol=1e-4)
        convert(tmp_path / style, tmp_path / f"{style} back", to="kohya", precision="fp32")
        back = clip_changes(safetensors.torch.load_file(tmp_path / f"{style} back"))
        assert back.keys() == changes.keys() and len(back) == 12
        assert all(torch.allclose(back[name], changes[name], atol=1e-4) for name in changes)
    combine([Source(source)], tmp_path / "resized", cut=Cut(rank=1), precision="fp32")
    resized = read_lora(tmp_path / "resized")
    assert sum(module.component == "text_encoder" for module in resized.modules) == 12
    assert {module.rank for module in resized.modules} == {1} and resized.family == "flux1"
    convert(source, tmp_path / "peft", to="peft")
    assert len(safetensors.torch.load_file(tmp_path / "peft" / "text_encoder" / WEIGHTS_FILE)) == 24


def test_other_text_encoders_of_flux1_are_refused(tmp_path: Path) -> None:
    """T5's layers, which diffusers refuses."""
    made = FlowMade("flux1", make_flux1(tmp_path / "folder"), tmp_path)
    flow_lora(made, tmp_path / "denoiser", "kohya")
    pair = {
        f"lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_{name}.weight": torch.ones(2, 2)
        for name in ("up", "down")
    }
    source = saved(safetensors.torch.load_file(tmp_path / "denoiser") | pair, tmp_path / "with T5")
    with pytest.raises(ModelError, match="tool_layers_unknown"):
        convert(source, tmp_path / "out", to="diffusers")
