"""Writing: the same bytes, a proper file, nothing left of a bad one, and diffusers reads all of it."""

import hashlib
import json
import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lorasmith.adapters import adapter_kind
from lorasmith.adapters.base import LayerSettings, by_layer
from lorasmith.adapters.dora import MAGNITUDE, Dora
from lorasmith.adapters.flat import AdaptedLayer
from lorasmith.adapters.lora import DOWN, UP
from lorasmith.demo.layouts import ModelSize
from lorasmith.exporting.file_format import split_file
from lorasmith.exporting.metadata import ExportFacts
from lorasmith.exporting.verify import ExportError, verify
from lorasmith.exporting.write import Written, write_export
from lorasmith.targets import LayerSpec
from tests.end_to_end.needs import needs_memory
from tests.exporting.made_lora import LORA, SD15, MadeLora, full_size, made_lora, made_loras
from tests.families.unet_miniature import make_model


@pytest.fixture(scope="module")
def made() -> MadeLora:
    return made_lora(full_size(), rank=1, alpha=0.1)


def write(
    path: Path,
    made: MadeLora,
    facts: ExportFacts,
    precision: torch.dtype = torch.float16,
    *,
    named: dict[str, Tensor] | None = None,
) -> Written:
    tensors = made.named() if named is None else named

    def check(_: Path, content: bytes) -> None:
        verify(content, kind=made.kind, table=SD15, layers=made.layers)

    return write_export(path, tensors, facts, precision=precision, kind=made.kind, check=check)


def test_file_is_complete_and_ordinary(made: MadeLora, facts: ExportFacts, tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    written = write(path, made, facts)
    content = path.read_bytes()
    assert written == (path, hashlib.sha256(content).hexdigest())
    assert content[8:10] == b'{"'
    assert [one.name for one in tmp_path.iterdir()] == ["last.safetensors"]
    if os.name != "nt":
        (tmp_path / "other").touch()
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)
    metadata, _, data = split_file(content)
    assert metadata["sshs_model_hash"] == hashlib.sha256(data).hexdigest()
    assert json.loads(metadata["ss_tag_frequency"])["10_測試"]["紅"] == 1


def test_magnitudes_of_a_dora_stay_float32(facts: ExportFacts, tmp_path: Path) -> None:
    """Rounded, they would change every weight of the base model."""
    target = "denoiser.mid_block.attentions.0.proj_in"
    made = made_lora({target: SD15.targets[target].layer}, kind=Dora())
    read = load_file(write(tmp_path / "f", made, facts).path)
    types = {name.partition(".")[2]: tensor.dtype for name, tensor in read.items()}
    rounded, kept = dict.fromkeys((DOWN, UP), torch.float16), dict.fromkeys(("alpha", MAGNITUDE), torch.float32)
    assert types == rounded | kept
    content = save({name: tensor.half() if MAGNITUDE in name else tensor for name, tensor in read.items()})
    with pytest.raises(ExportError) as caught:
        verify(content, kind=made.kind, table=SD15, layers=made.layers)
    assert caught.value.fields["reason"] == "precision"


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float32])
def test_all_but_alpha_are_cast(made: MadeLora, facts: ExportFacts, tmp_path: Path, precision: torch.dtype) -> None:
    named = made.named()
    read = load_file(write(tmp_path / "f", made, facts, precision).path)
    assert read.keys() == named.keys()
    for name, tensor in read.items():
        assert tensor.dtype == (torch.float32 if name.endswith(".alpha") else precision)
        assert torch.equal(tensor, named[name].to(tensor.dtype))
    assert read["lora_te_text_model_encoder_layers_0_mlp_fc1.alpha"] == torch.tensor(0.1)


def test_same_arguments_same_bytes(made: MadeLora, facts: ExportFacts, tmp_path: Path) -> None:
    first = write(tmp_path / "a.safetensors", made, facts)
    second = write(tmp_path / "b.safetensors", made, facts, named=dict(reversed(made.named().items())))
    assert first.sha256 == second.sha256


def test_bad_file_leaves_the_old_one(made: MadeLora, facts: ExportFacts, tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    path.write_bytes(b"old")
    named = made.named()
    named["lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"] *= float("inf")
    with pytest.raises(ExportError) as caught:
        write(path, made, facts, named=named)
    assert caught.value.fields["reason"] == "not_finite"
    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["last.safetensors"]


# -- diffusers reads it ------------------------------------------------------------------------------


def _layers_of(unet: nn.Module, text_encoder: nn.Module) -> dict[str, nn.Module]:
    """The modules of a pipeline by target name, convolutions too: those of the table that the model has."""
    text_modules, found = dict(text_encoder.named_modules()), {}
    for target, row in SD15.targets.items():
        path = target.removeprefix(f"{row.component}.")
        modules = dict(unet.named_modules()) if row.component == "denoiser" else text_modules
        # newer transformers have no `text_model` level in memory
        module = modules.get(path) or modules.get(path.removeprefix("text_model."))
        if module is not None:
            found[target] = module
    return found


def _spec_of(weight: Tensor) -> LayerSpec:
    outputs, inputs, *kernel = weight.shape
    return LayerSpec(outputs, inputs, tuple(kernel))


def _uniform(target: str, spec: LayerSpec) -> LayerSettings:
    return LayerSettings(4, 3.0)


def _mixed(target: str, spec: LayerSpec) -> LayerSettings:
    """Ranks and alphas of several values in every kind of layer."""
    chance = random.Random(target)
    return LayerSettings(chance.choice((1, 3, 4)), chance.choice((0.5, 3.0, 5.0)))


def _convolutions(target: str, spec: LayerSpec) -> LayerSettings:
    return LayerSettings(2, 0.5) if spec.has_neighbours else LayerSettings(4, 3.0)


def _most_are_convolutions(target: str, spec: LayerSpec) -> LayerSettings | None:
    is_chosen = spec.has_neighbours or "mid_block.attentions" in target
    return _convolutions(target, spec) if is_chosen else None


def _rslora(target: str, spec: LayerSpec) -> LayerSettings:
    rank = _mixed(target, spec).rank
    return LayerSettings(rank, 2.0 * rank**0.5)


CHOICES = [
    *(pytest.param(one, "miniature", 197 + 12, marks=pytest.mark.ci) for one in (_uniform, _rslora, _convolutions)),
    (_mixed, "miniature", 197 + 12),
    pytest.param(_most_are_convolutions, "miniature", 38 + 12, marks=pytest.mark.ci),
    pytest.param(_mixed, "sd15", 278 + 72, marks=[pytest.mark.slow]),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("choice", "size", "count"), CHOICES)
def test_diffusers_applies_every_layer_as_trained(
    facts: ExportFacts,
    tmp_path: Path,
    choice: Callable[[str, LayerSpec], LayerSettings | None],
    size: ModelSize,
    count: int,
) -> None:
    from diffusers import StableDiffusionPipeline

    if size == "sd15":
        needs_memory(12)
    folder = make_model(tmp_path / "base", size=size)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    shutil.rmtree(folder)  # gigabytes, at full size
    layers = _layers_of(pipeline.unet, pipeline.text_encoder)
    before = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    specs = {name: _spec_of(weight) for name, weight in before.items()}
    trained = {name: (spec, choice(name, spec)) for name, spec in specs.items()}
    lora = made_loras({name: AdaptedLayer(spec, own) for name, (spec, own) in trained.items() if own is not None})
    assert len(lora.layers) == count
    path = write(tmp_path / "lora.safetensors", lora, facts, torch.float32).path
    pipeline.load_lora_weights(str(path))
    pipeline.fuse_lora(components=["unet", "text_encoder"])
    pipeline.unload_lora_weights()
    fused = _layers_of(pipeline.unet, pipeline.text_encoder)
    assert fused.keys() == before.keys()
    pairs = by_layer(lora.tensors, LORA)
    for name, layer in fused.items():
        if name not in pairs:
            assert torch.equal(layer.weight, before[name]), name
            continue
        change = LORA.delta(layer.weight, pairs[name], lora.settings[name])
        assert change.abs().max() > 0.05, name
        assert torch.allclose(layer.weight, before[name] + change, rtol=0, atol=2e-6), name


@pytest.mark.ci
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_diffusers_reads_lora_alone(facts: ExportFacts, tmp_path: Path) -> None:
    """As docs/formats.md says: it refuses LoHa and LoKr, and shows the LoRA inside a DoRA without its magnitudes."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(make_model(tmp_path / "base"), local_files_only=True)
    before = {name: layer.weight.detach().clone() for name, layer in _layers_of(pipeline.unet, nn.Module()).items()}
    specs = {name: _spec_of(weight) for name, weight in before.items()}
    for kind in ("loha", "lokr"):
        other = write(
            tmp_path / f"{kind}.safetensors", made_lora(specs, kind=adapter_kind(kind)), facts, torch.float32
        ).path
        with pytest.raises(ValueError, match="have not been correctly renamed"):
            pipeline.load_lora_weights(str(other))
    dora = made_lora(specs, kind=Dora())
    pipeline.load_lora_weights(str(write(tmp_path / "dora.safetensors", dora, facts, torch.float32).path))
    pipeline.fuse_lora(components=["unet"])
    pipeline.unload_lora_weights()
    own = by_layer(dora.tensors, Dora())
    for name, layer in _layers_of(pipeline.unet, nn.Module()).items():
        plain = LORA.delta(before[name], own[name], dora.settings[name])
        assert torch.allclose(layer.weight, before[name] + plain, rtol=0, atol=1e-5), name
