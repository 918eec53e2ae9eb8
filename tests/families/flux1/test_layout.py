"""FLUX.1's names: of layers in files, against diffusers' own conversion of the published checkpoint's names."""

from typing import Any

import pytest
import torch
from diffusers.loaders import FluxLoraLoaderMixin
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

from lorasmith.adapters import adapter_kind
from lorasmith.adapters.base import LayerSettings
from lorasmith.exporting.formats import parse_native, table_in
from lorasmith.exporting.name_table import PEFT, parse_table
from lorasmith.exporting.names import to_file
from lorasmith.families.flux1.family import Flux1, denoiser_builder
from lorasmith.families.flux1.layout import (
    NAMES,
    denoiser_config,
    find_denoiser,
    layer_names,
    native_names,
    vae_factor,
)
from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.places import shapes_at
from lorasmith.targets import TargetModule
from tests.families.flux1.miniature import native_tensors


@pytest.fixture(scope="module")
def published() -> Any:
    return denoiser_builder()({"guidance_embeds": True})  # the rest is as in the class


def targets_of(model: Any) -> dict[str, TargetModule]:
    found = Flux1.target_modules(Flux1, {"denoiser": model})
    return {target.name: target for target in found}


def test_every_linear_layer_but_one_has_a_row_with_its_published_size(published: Any) -> None:
    """Not `norm_out`, whose halves lie in another order in diffusers than elsewhere."""
    table, found = parse_table("flux1", layer_names()), targets_of(published)
    assert {name: target.spec for name, target in found.items()} == {
        name: row.layer for name, row in table.targets.items()
    }
    assert len(found) == len(table.modules) == 503 and table.form is PEFT
    linear = {f"denoiser.{path}" for path, module in published.named_modules() if isinstance(module, torch.nn.Linear)}
    assert linear - set(found) == {"denoiser.norm_out.linear"}
    blocks = Flux1.repeated_blocks(Flux1, {"denoiser": published})
    assert len(blocks) == 19 + 38


def test_places_in_the_published_checkpoint_are_those_that_diffusers_converts(published: Any) -> None:
    """Each layer's rows of a fused layer are numbered there; the conversion puts them where they belong."""
    native, table = parse_native(native_names()), parse_table("flux1", layer_names())
    assert native.keys() == table.targets.keys()
    fused = table_in(table, "comfyui", native)
    assert len(fused.modules) == 503 - 2 * 2 * 19 - 3 * 38
    checkpoint = {}
    for module, rows in fused.modules.items():
        path = module.removeprefix("diffusion_model.")
        outputs = sum(row.layer.outputs for row in rows)
        start = len(checkpoint) * 100_000  # which layer, and which row
        checkpoint[f"{path}.weight"] = torch.arange(start, start + outputs, dtype=torch.float64)[:, None]
    numbers = {path: int(weight[0]) for path, weight in checkpoint.items()}
    missing = _missing(checkpoint)
    converted = convert_flux_transformer_checkpoint_to_diffusers({**checkpoint, **missing})
    for name, row in table.targets.items():
        found = converted[f"{name.removeprefix('denoiser.')}.weight"][:, 0]
        place = native[name]
        first = numbers[f"{place.path}.weight"] + (place.part.start if place.part else 0)
        assert found.tolist() == list(range(first, first + row.layer.outputs)), name


def _missing(checkpoint: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the conversion asks for besides: biases, norms, the modulation of the output."""
    biases = {name.replace(".weight", ".bias"): tensor[:, 0] for name, tensor in checkpoint.items()}
    norms = {}
    for block in range(19):
        for stream in ("img", "txt"):
            for which in ("query", "key"):
                norms[f"double_blocks.{block}.{stream}_attn.norm.{which}_norm.scale"] = torch.zeros(1)
    for block in range(38):
        for which in ("query", "key"):
            norms[f"single_blocks.{block}.norm.{which}_norm.scale"] = torch.zeros(1)
    last = {f"final_layer.adaLN_modulation.1.{kind}": torch.zeros(2) for kind in ("weight", "bias")}
    return {**biases, **norms, **last}


@pytest.mark.parametrize("block", ["transformer_blocks.3.", "single_transformer_blocks.7."])
def test_diffusers_takes_kohyas_fused_layers_apart_as_they_were_put_together(block: str) -> None:
    """At the published sizes, which its reader takes for granted."""
    table = parse_table("flux1", layer_names())
    kohya, kind = table_in(table, "kohya", parse_native(native_names())), adapter_kind("lora")
    generator = torch.Generator().manual_seed(1)
    targets = [name for name in table.targets if name.startswith(f"denoiser.{block}") and "norm" not in name]
    tensors = {
        f"{name}.{suffix}": torch.randn(shape, generator=generator)
        for name in targets
        for suffix, shape in kind.shapes(table.targets[name].layer, LayerSettings(2, 1.0)).items()
    }
    named = to_file(tensors, kind, kohya, dict.fromkeys(targets, LayerSettings(2, 1.0)))
    read = FluxLoraLoaderMixin.lora_state_dict(named)
    assert {key.partition(".lora_")[0] for key in read} == {table.targets[name].module for name in targets}
    columns = slice(0, 64)
    for name in targets:
        module = table.targets[name].module
        found = read[f"{module}.lora_B.weight"] @ read[f"{module}.lora_A.weight"][:, columns]
        expected = 0.5 * tensors[f"{name}.lora_up.weight"] @ tensors[f"{name}.lora_down.weight"][:, columns]
        assert torch.allclose(found, expected, atol=1e-4), name


def test_a_side_of_latents_has_eight_pixels() -> None:
    assert vae_factor({"vae": {"block_out_channels": [128, 256, 512, 512]}}) == 8
    assert set(NAMES.components) == {"transformer", "vae", "text_encoder", "text_encoder_2"}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_native_names_lead_to_the_tensors_that_diffusers_makes_of_them(published: Any, prefix: str) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in published.state_dict().items()}
    native = native_tensors({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    stored = {prefix + name: tuple(tensor.shape) for name, tensor in native.items()}
    assert shapes_at(find_denoiser([*stored, "vae.decoder.conv_in.weight"] if prefix else stored), stored) == shapes
    converted = convert_flux_transformer_checkpoint_to_diffusers(dict(native))
    assert {name: tuple(tensor.shape) for name, tensor in converted.items()} == shapes
    assert shapes_at(find_denoiser(shapes), shapes) == shapes  # diffusers' names in a file of their own


def test_the_config_follows_from_the_shapes_of_the_published_model(published: Any) -> None:
    """The class's own config is the published one."""
    shapes = {name: tuple(tensor.shape) for name, tensor in published.state_dict().items()}
    expected = {name: value for name, value in published.config.items() if not name.startswith("_")}
    assert denoiser_config(shapes) == {**expected, "axes_dims_rope": list(expected["axes_dims_rope"])}
    without = {name: shape for name, shape in shapes.items() if ".guidance_embedder." not in name}
    assert denoiser_config(without)["guidance_embeds"] is False
    with pytest.raises(UnusualShapesError):
        denoiser_config({**shapes, "single_transformer_blocks.0.attn.norm_q.weight": (64,)})
