"""A merged model has the weights that the LoRA's formula gives, layer by layer."""

from pathlib import Path

import diffusers
import pytest
import safetensors.torch
import torch
from torch import Tensor

from lorasmith.adapters import ADAPTERS, adapter_kind
from lorasmith.adapters.base import LayerSettings
from lorasmith.errors import InputError, ModelError
from lorasmith.exporting.names import to_file
from lorasmith.lora_files.names import layers_of
from lorasmith.lora_files.reader import read_lora
from lorasmith.lora_tools.combine import Source
from lorasmith.lora_tools.convert import convert
from lorasmith.lora_tools.extract import extract
from lorasmith.lora_tools.into_model import merge_into
from lorasmith.lora_tools.low_rank import Cut
from lorasmith.lora_tools.models import open_model
from lorasmith.lora_tools.regroup import parts_of
from lorasmith.targets import LayerSpec
from tests.families.flux1.miniature import make_model as make_flux1
from tests.families.flux1.miniature import make_split as make_flux1_split
from tests.lora_files.test_readers import LOADERS
from tests.lora_files.written import saved
from tests.lora_tools.conftest import Made
from tests.lora_tools.flow import FlowMade, clip_changes, clip_weights, expect, table, weights_of, with_clip
from tests.lora_tools.flow import lora as flow_lora
from tests.lora_tools.test_convert import through_diffusers

SETTINGS = LayerSettings(2, 3.0)


def lora(made: Made, path: Path, kind_name: str, seed: int = 1) -> tuple[Path, dict[str, Tensor]]:
    """A file that changes every layer that the model has, and the weights' changes by target."""
    kind, weights = adapter_kind(kind_name), made.weights()
    generator = torch.Generator().manual_seed(seed)
    tensors, changes = {}, {}
    for target in layers_of(made.family).table.targets:
        if target not in weights:
            continue
        weight = weights[target]
        spec = LayerSpec(weight.shape[0], weight.shape[1], tuple(weight.shape[2:]))
        own = {
            suffix: torch.randn(shape, generator=generator) * 0.1
            for suffix, shape in kind.shapes(spec, SETTINGS).items()
        }
        tensors |= {f"{target}.{suffix}": tensor for suffix, tensor in own.items()}
        changes[target] = kind.delta(weight, own, SETTINGS)
    named = to_file(tensors, kind, layers_of(made.family).table, dict.fromkeys(changes, SETTINGS))
    return saved(named, path), changes


@pytest.mark.parametrize(
    ("layout", "kind"),
    [
        *(("folder", one) for one in ADAPTERS),
        ("file", "lora"),
        *(pytest.param("file", one, marks=pytest.mark.ci) for one in ADAPTERS if one != "lora"),
    ],
)
def test_every_kind_is_merged_by_its_formula(made: Made, tmp_path: Path, kind: str, layout: str) -> None:
    path, changes = lora(made, tmp_path / "lora.safetensors", kind)
    out = tmp_path / "out.safetensors"
    merged = merge_into(getattr(made, layout), [Source(path, 0.5)], out)
    before, after = made.weights(), made.weights(out)
    assert merged.layers == len(changes) and before.keys() == after.keys()
    for target, weight in before.items():
        expected = weight + 0.5 * changes[target] if target in changes else weight
        bound = expected.abs() * 2**-10 + 1e-5 if target in changes else 0  # one rounding to half precision
        assert bool(((after[target] - expected).abs() <= bound).all()), target


def test_no_output_inside_the_model(tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / "unet").mkdir(parents=True)
    with pytest.raises(InputError, match="tool_output_inside"):
        merge_into(base, [], base / "unet" / "out")


def test_several_files_are_added(made: Made, tmp_path: Path) -> None:
    first, one = lora(made, tmp_path / "first", "lora", seed=1)
    second, other = lora(made, tmp_path / "second", "lora", seed=2)
    merge_into(made.folder, [Source(first), Source(second, -1.0)], tmp_path / "out")
    before, after = made.weights(), made.weights(tmp_path / "out")
    for target in one:
        expected = (before[target] + one[target] - other[target]).half().float()
        assert torch.allclose(after[target], expected, rtol=2**-10, atol=1e-4)


def test_what_does_not_fit_the_model(made: Made, tmp_path: Path) -> None:
    path, _ = lora(made, tmp_path / "lora", "lora")
    tensors = {"lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": torch.ones(4, 2)}
    tensors["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"] = torch.ones(2, 4)
    with pytest.raises(ModelError, match="tool_other_family"):
        merge_into(made.folder, [Source(saved(tensors, tmp_path / "flux"))], tmp_path / "out")
    stored = safetensors.torch.load_file(path)
    name = next(name for name in stored if name.endswith("lora_up.weight"))
    with pytest.raises(ModelError, match="tool_other_size"):
        larger = {**stored, name: torch.ones(2 * len(stored[name]), *stored[name].shape[1:])}
        merge_into(made.folder, [Source(saved(larger, tmp_path / "larger"))], tmp_path / "out")
    with pytest.raises(ModelError, match="tool_not_finite") as caught:
        endless = {**stored, name: torch.full_like(stored[name], float("nan"))}
        merge_into(made.folder, [Source(saved(endless, tmp_path / "endless"))], tmp_path / "out")
    assert caught.value.fields["path"] == str(tmp_path / "endless")
    with pytest.raises(ModelError, match="tool_layers_unknown"):
        merge_into(made.folder, [Source(saved({**stored, "x": torch.ones(1)}, tmp_path / "x"))], tmp_path / "out")
    module = name.partition(".")[0]
    glora = {f"{module}.{end}.weight": torch.ones(2, 2) for end in ("a1", "a2", "b1", "b2")}
    rest = {key: tensor for key, tensor in stored.items() if not key.startswith(f"{module}.")}
    with pytest.raises(ModelError, match="tool_kind"):
        merge_into(made.folder, [Source(saved({**rest, **glora}, tmp_path / "glora"))], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_converted_file_merges_alike(made: Made, tmp_path: Path) -> None:
    """Of every family: the UNet of SDXL has other names in diffusers than in sd-scripts."""
    path, changes = lora(made, tmp_path / "lora", "lora")
    unet = {name.removeprefix("denoiser."): change for name, change in changes.items() if name.startswith("denoiser.")}
    convert(path, tmp_path / "diffusers", to="diffusers")
    found = through_diffusers(tmp_path / "diffusers", made.folder)
    assert found.keys() == {f"lora_unet_{name.replace('.', '_')}" for name in unet}
    for name, change in unet.items():
        # the weights are in half precision, so only what they can show is compared
        assert torch.allclose(found[f"lora_unet_{name.replace('.', '_')}"].float(), change, atol=2e-3)
    convert(tmp_path / "diffusers", tmp_path / "back", to="kohya")
    merge_into(made.folder, [Source(tmp_path / "back")], tmp_path / "merged")
    before, after = made.weights(), made.weights(tmp_path / "merged")
    for target, change in changes.items():
        assert torch.allclose(after[target], before[target] + change, rtol=2**-10, atol=1e-5)


@pytest.mark.parametrize(("layout", "forms"), [("folder", ("kohya", "comfyui")), ("file", ("", "diffusers"))])
def test_flow_matching_by_every_name_of_a_layer(
    flow: FlowMade, tmp_path: Path, layout: str, forms: tuple[str, ...]
) -> None:
    """Layers that a LoRA or a model has as one are taken apart: the whole change of each weight, and nothing else."""
    for form in forms:
        changes = flow_lora(flow, tmp_path / f"lora{form}", form)
        out = tmp_path / f"out{form}"
        merged = merge_into(getattr(flow, layout), [Source(tmp_path / f"lora{form}", 0.5)], out)
        assert merged.layers == len(changes)
        model, before = open_model(out), {name: flow.weights[name] for name in open_model(flow.file).places}
        found = {name: torch.from_numpy(model.read(name)).reshape(before[name].shape) for name in before}
        expect(found, {name: before[name] for name in found}, {name: 0.5 * change for name, change in changes.items()})


@pytest.mark.ci
def test_a_merged_folder_is_what_diffusers_makes_of_both(flow: FlowMade, tmp_path: Path) -> None:
    """By its own loader and its own sum."""
    flow_lora(flow, tmp_path / "lora.safetensors")
    mixin, name, part = LOADERS[flow.family]
    loader = type("Loader", (getattr(diffusers.loaders, mixin),), {"hf_device_map": None, "components": {}})()
    loader.text_encoder = None
    model = getattr(diffusers, name).from_pretrained(flow.folder, subfolder=part)
    setattr(loader, part, model)
    loader.load_lora_weights(str(tmp_path / "lora.safetensors"), adapter_name="it")
    model.fuse_lora()
    expected = {key.replace(".base_layer", ""): weight for key, weight in model.state_dict().items()}
    merge_into(flow.folder, [Source(tmp_path / "lora.safetensors")], tmp_path / "out")
    found = getattr(diffusers, name).from_pretrained(tmp_path / "out", subfolder=part).state_dict()
    plain = getattr(diffusers, name).from_pretrained(flow.folder, subfolder=part).state_dict()
    assert sum(not torch.equal(weight, plain[key]) for key, weight in found.items()) > 10
    for key, weight in found.items():
        torch.testing.assert_close(weight, expected[key], rtol=1e-5, atol=1e-5, msg=key)


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_flow_matching_with_other_kinds_in_fused_layers(flow: FlowMade, tmp_path: Path, kind: str) -> None:
    """As trained in programs whose model has several layers as one: a change is cut after it was computed."""
    module, rows = min(table(flow.family, "comfyui").modules.items(), key=lambda item: (-len(item[1]), item[0]))
    parts = [part.target for part in parts_of(rows, layers_of(flow.family).known.pieces)]
    outputs, inputs = sum(len(flow.weights[part]) for part in parts), flow.weights[parts[0]].shape[1]
    of_kind, settings = adapter_kind(kind), LayerSettings(2, 3.0)
    shapes = of_kind.shapes(LayerSpec(outputs, inputs), settings)
    own = {suffix: torch.randn(shape) for suffix, shape in shapes.items()}
    delta = of_kind.delta(torch.zeros(outputs, inputs), own, settings)
    alpha = of_kind.file_alpha({suffix: tuple(tensor.shape) for suffix, tensor in own.items()}, settings)
    tensors = {f"{module}.{suffix}": tensor for suffix, tensor in own.items()} | {
        f"{module}.alpha": torch.tensor(alpha)
    }
    merge_into(flow.folder, [Source(saved(tensors, tmp_path / "lora"))], tmp_path / "out")
    changes = dict(zip(parts, delta.split([len(flow.weights[part]) for part in parts]), strict=True))
    expect(weights_of(tmp_path / "out"), flow.weights, changes)


def test_lengths_of_dora_in_fused_layers(flow: FlowMade, tmp_path: Path) -> None:
    """A length for each output belongs to a row, and goes with it; a length for each input is that of all layers."""
    module, rows = min(table(flow.family, "comfyui").modules.items(), key=lambda item: (-len(item[1]), item[0]))
    parts = [part.target for part in parts_of(rows, layers_of(flow.family).known.pieces)]
    whole = torch.cat([flow.weights[part] for part in parts])
    pair = {f"{module}.lora_A.weight": torch.randn(2, whole.shape[1])}
    pair[f"{module}.lora_B.weight"] = torch.randn(len(whole), 2) * 0.1
    lengths = torch.rand(len(whole), 1) + 0.5
    path = saved({**pair, f"{module}.dora_scale": lengths}, tmp_path / "by output")
    merge_into(flow.folder, [Source(path)], tmp_path / "out")
    new = whole + pair[f"{module}.lora_B.weight"] @ pair[f"{module}.lora_A.weight"]
    new = new * (lengths / new.norm(dim=1, keepdim=True))
    changes = dict(zip(parts, (new - whole).split([len(flow.weights[part]) for part in parts]), strict=True))
    expect(weights_of(tmp_path / "out"), flow.weights, changes)
    path = saved({**pair, f"{module}.dora_scale": torch.ones(1, whole.shape[1])}, tmp_path / "by input")
    if len(parts) > 1:
        with pytest.raises(ModelError, match="tool_kind"):
            merge_into(flow.folder, [Source(path)], tmp_path / "none")


def test_clip_of_flux1_is_merged_where_the_model_has_it_and_left_out_where_not(tmp_path: Path) -> None:
    """As sd-scripts trains it beside the denoiser."""
    folder = make_flux1(tmp_path / "folder")
    split = make_flux1_split(folder, tmp_path / "models")
    made = FlowMade("flux1", folder, split)
    flow_lora(made, tmp_path / "lora", "kohya")
    tensors = with_clip(safetensors.torch.load_file(tmp_path / "lora"), folder)
    source = Source(saved(tensors, tmp_path / "with_clip"), 0.5)
    changes = clip_changes(tensors)
    before, whole = clip_weights(folder), merge_into(folder, [source], tmp_path / "out")
    found = {name: weight.float() for name, weight in clip_weights(tmp_path / "out").items()}
    names = {name.removeprefix("text_encoder.").replace(".", "_"): name for name in found}
    assert len(changes) == 12 and whole.left_out == 0
    for name, target in names.items():
        change = 0.5 * changes[name] if name in changes else 0
        torch.testing.assert_close(found[target], (before[target] + change).to(torch.bfloat16).float(), msg=name)
    extract(folder, tmp_path / "out", tmp_path / "again", cut=Cut(rank=2))
    assert sum(module.component == "text_encoder" for module in read_lora(tmp_path / "again").modules) == len(changes)
    with pytest.raises(ModelError, match="tool_layer_missing"):
        merge_into(split, [source], tmp_path / "none")
    merged = merge_into(split, [source], tmp_path / "file", allows_left_out=True)
    assert (merged.left_out, merged.layers) == (len(changes), whole.layers - len(changes))
    other = tmp_path / "other"
    merge_into(split, [Source(tmp_path / "lora", 0.5)], other)
    assert other.read_bytes() == (tmp_path / "file").read_bytes()
