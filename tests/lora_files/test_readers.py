"""The rules of what programs do with a file: diffusers itself loads every form, and all weights are compared."""

import json
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import pytest
import torch
from diffusers import loaders
from safetensors.torch import save_file
from torch import Tensor, nn

from lorasmith.exporting.formats import parse_native, table_in
from lorasmith.exporting.name_table import Row
from lorasmith.families import native_names
from lorasmith.lora_files.reader import read_lora
from lorasmith.lora_files.reader_rules import OF_DIFFUSERS, Form
from lorasmith.lora_files.readers import Reading, readings
from lorasmith.lora_tools.inspection import inspect_lora
from lorasmith.session.name_tables import name_table
from tests.families.tiny import MINIATURES

RANK, ALPHA = 4, 2.0
BLOCK, SUFFIX = re.compile(r"(blocks|layers|refiner)[._]\d"), re.compile(r"\.(lora_\w+\.weight|alpha)$")
LOADERS = {  # family -> mixin of its pipeline, class and folder of its denoiser
    "sd15": ("StableDiffusionLoraLoaderMixin", "UNet2DConditionModel", "unet"),
    "krea2": ("Krea2LoraLoaderMixin", "Krea2Transformer2DModel", "transformer"),
    "anima": ("AnimaLoraLoaderMixin", "CosmosTransformer3DModel", "transformer"),
    "flux1": ("FluxLoraLoaderMixin", "FluxTransformer2DModel", "transformer"),
    "flux2_klein": ("Flux2LoraLoaderMixin", "Flux2Transformer2DModel", "transformer"),
    "qwen_image21": ("QwenImageLoraLoaderMixin", "QwenImage21Transformer2DModel", "transformer"),
    "zimage": ("ZImageLoraLoaderMixin", "ZImageTransformer2DModel", "transformer"),
}
OF_LDM = ("sd15", "sd2", "sdxl")
FORMS = [
    pytest.param(family, form, id=f"{family}-{''.join(form)}")
    for family in LOADERS
    for form in OF_DIFFUSERS[family]
    # All programs have diffusers' names for SD 1.x, and the conversion of FLUX.1 has its published width in it.
    if (family, form.names) != ("sd15", "N") and (family, form.names, form.pair) != ("flux1", "N", "du")
]


class Loaded(NamedTuple):
    """A file that diffusers was given: what came of it."""

    outcome: str
    modules: int  # that it changes
    scale: float  # of what was added, as a multiple of what the file's matrices make with alpha / rank


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """The denoiser of a family's miniature, new each time."""
    folders: dict[str, Path] = {}

    def make(family: str) -> Any:
        if family not in folders:
            folders[family] = MINIATURES[family](tmp_path_factory.mktemp(family) / "model")
        _, name, folder = LOADERS[family]
        return getattr(diffusers, name).from_pretrained(folders[family], subfolder=folder)

    return make


Change = dict[str, Tensor]  # by the name of the model's layer


def written(
    family: str, model: nn.Module, form: Form, alpha: float | None
) -> tuple[dict[str, Tensor], dict[str, Change]]:
    """A LoRA for all linear layers under the names of the form, and what the layers of each module should get."""
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    own = name_table(family)
    in_form = "diffusers" if form.names == "D" else "comfyui"
    table = own if family in OF_LDM else table_in(own, in_form, parse_native(native_names(family)))
    tensors: dict[str, Tensor] = {}
    wanted: dict[str, Change] = {}
    generator = torch.Generator().manual_seed(0)
    for module, rows in table.modules.items():
        inside = [layer for row in rows for layer in layers_of_row(row)]
        sizes = [shapes.get(f"{layer}.weight", ()) for layer in inside]
        if not all(len(size) == 2 for size in sizes):  # a convolution, or of a block that the miniature lacks
            continue
        down = torch.randn(RANK, sizes[0][1], generator=generator)
        up = torch.randn(sum(size[0] for size in sizes), RANK, generator=generator)
        path = inside[0] if family in OF_LDM else module.partition(".")[2]
        name = form.prefix + (path.replace(".", "_") if form.prefix.endswith("_") else path)
        first, second = ("lora_A", "lora_B") if form.pair == "AB" else ("lora_down", "lora_up")
        tensors |= {f"{name}.{first}.weight": down, f"{name}.{second}.weight": up}
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
        change = (1 if alpha is None else alpha / RANK) * up @ down
        wanted[name] = dict(zip(inside, change.split([size[0] for size in sizes]), strict=True))
    assert wanted
    return tensors, wanted


def layers_of_row(row: Row) -> list[str]:
    """The names of the layers that diffusers has for it."""
    path = row.target.partition(".")[2]
    return [f"{path.rpartition('.')[0]}.{piece}" for piece in row.pieces] or [path]


def loaded(family: str, make: Callable[[str], Any], file: Any, wanted: Mapping[str, Change]) -> Loaded:
    """What diffusers makes of a file, or of its tensors."""
    model = make(family)
    mixin, _, folder = LOADERS[family]
    loader = type("Loader", (getattr(loaders, mixin),), {"hf_device_map": None, "components": {}})()
    setattr(loader, folder, model)
    loader.text_encoder = None
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loader.load_lora_weights(file, adapter_name="it")
            if getattr(model, "peft_config", None):
                model.fuse_lora()
    except (ValueError, IndexError, KeyError):  # peft's NoMatchingPeftModuleError is a ValueError
        return Loaded("refused", 0, 0)
    after = {name.replace(".base_layer", ""): weight for name, weight in model.state_dict().items()}
    scales = []
    for changes in wanted.values():
        of_module = set()
        for layer, change in changes.items():
            added = after[f"{layer}.weight"] - before[f"{layer}.weight"]
            scale = float((added * change).sum() / (change * change).sum())
            torch.testing.assert_close(added, scale * change, rtol=1e-3, atol=1e-3)
            of_module.add(round(scale, 2))
        assert len(of_module) == 1
        scales.append(of_module.pop())
    changed = sum(scale != 0 for scale in scales)
    outcome = "whole" if changed == len(scales) else "part" if changed else "nothing"
    return Loaded(outcome, changed, max(scales) if len(set(scales) - {0}) <= 1 else float("nan"))


def of(program: str, path: Path, family: str = "") -> Reading:
    return next(found for found in readings(read_lora(path), family) if found.program.startswith(program))


@pytest.mark.parametrize("alpha", [None, ALPHA])
@pytest.mark.ci
@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "blocks"])
@pytest.mark.parametrize(("family", "form"), FORMS)
def test_diffusers_does_what_the_rule_says(
    made: Callable[[str], Any], tmp_path: Path, family: str, form: Form, *, is_whole: bool, alpha: float | None
) -> None:
    """For the layers of the blocks, which most files have, and for all."""
    tensors, wanted = written(family, made(family), form, alpha)
    if not is_whole:
        wanted = {name: changes for name, changes in wanted.items() if BLOCK.search(name)}
        tensors = {key: tensor for key, tensor in tensors.items() if SUFFIX.sub("", key) in wanted}
    path = tmp_path / "lora.safetensors"
    save_file(tensors, path)
    found = loaded(family, made, tensors, wanted)
    reading = of("diffusers", path, family)
    assert (reading.outcome, reading.layers) == (found.outcome, found.modules)
    strength = RANK / ALPHA if reading.has_other_strength else 1
    assert found.scale == (strength if found.modules else 0)


def test_an_alpha_in_the_metadata_is_used_by_diffusers_alone(made: Callable[[str], Any], tmp_path: Path) -> None:
    """One file with two strengths."""
    for prefix, names in (("transformer.", "D"), ("diffusion_model.", "N")):
        tensors, wanted = written("krea2", made("krea2"), Form(prefix, names, "AB"), None)
        settings = {"r": RANK, "lora_alpha": 2 * RANK, "target_modules": ["to_q"], "peft_type": "LORA"}
        stated = {f"transformer.{name}": value for name, value in settings.items()}
        path = tmp_path / f"{names}.safetensors"
        save_file(tensors, path, {"format": "pt", "lora_adapter_metadata": json.dumps(stated)})
        kept = {name: changes for name, changes in wanted.items() if next(iter(changes)).endswith("to_q")}
        assert loaded("krea2", made, str(path), kept).scale == 2
        file = read_lora(path)
        assert set(file.alphas) == {2.0 * RANK} and {module.scale for module in file.modules} == {2}
        assert of("ComfyUI", path).has_other_strength and not of("diffusers", path).has_other_strength
        assert of("ComfyUI", path).outcome == "whole"
        assert inspect_lora(path).as_plain()["readers"][1]["has_other_strength"] is True


def test_programs_that_have_no_such_models(made: Callable[[str], Any], tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    for family, outcome in (("krea2", "foreign"), ("sd15", "whole")):
        form = Form("lora_unet_", "D", "du")
        save_file(written(family, made(family), form, ALPHA)[0], path)
        assert of("AUTOMATIC1111", path).outcome == outcome


@pytest.mark.parametrize(
    ("family", "form"),
    [("flux1", Form("transformer.", "D", "AB")), ("zimage", Form("lora_unet_", "N", "du")),
     ("qwen_image21", Form("diffusion_model.", "D", "AB")), ("flux2_klein", Form("lora_unet_", "N", "du"))],
)  # fmt: skip
@pytest.mark.ci
def test_alphas_may_differ_but_in_unets(made: Callable[[str], Any], tmp_path: Path, family: str, form: Form) -> None:
    """diffusers takes each alpha of these files, where it gives all attention of a UNet the commonest."""
    tensors, wanted = written(family, made(family), form, ALPHA)
    wanted = {name: changes for name, changes in wanted.items() if BLOCK.search(name)}
    tensors = {key: tensor for key, tensor in tensors.items() if SUFFIX.sub("", key) in wanted}
    for name in list(wanted)[::3]:
        tensors[f"{name}.alpha"] = torch.tensor(2 * ALPHA)
        wanted[name] = {layer: 2 * change for layer, change in wanted[name].items()}
    assert loaded(family, made, tensors, wanted) == Loaded("whole", len(wanted), 1.0)
    save_file(tensors, tmp_path / "lora.safetensors", {"ss_base_model_version": family})
    codes = {odd.code for odd in inspect_lora(tmp_path / "lora.safetensors").oddities}
    assert not {code for code in codes if code.startswith("alpha")}


def test_forge_reads_flux_whole_or_not_at_all(made: Callable[[str], Any], tmp_path: Path) -> None:
    """As its own loader was seen to do with each of these forms, on its own model class: it ignores a file with more
    than 12 keys that it does not know."""
    path = tmp_path / "lora.safetensors"
    read = {("transformer.", "D"), ("lycoris_", "D"), ("lora_transformer_", "D"), ("lora_unet_", "N")}
    read |= {("diffusion_model.", "N")}
    for form in OF_DIFFUSERS["flux1"]:
        tensors, wanted = written("flux1", made("flux1"), form, ALPHA)
        save_file(tensors, path)
        found = of("Forge", path, "flux1")
        whole = (form.prefix, form.names) in read
        assert (found.outcome, found.layers) == (("whole", len(wanted)) if whole else ("nothing", 0)), form
        if whole:
            save_file({**tensors, **{f"x{number}": torch.ones(1) for number in range(12)}}, path)
            assert of("Forge", path, "flux1").outcome == "whole"
            save_file({**tensors, **{f"x{number}": torch.ones(1) for number in range(13)}}, path)
            assert of("Forge", path, "flux1").outcome == "nothing"


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("lora_te1_text_model_encoder_layers_{}_self_attn_q_proj", "whole"),
        ("lora_te_text_model_encoder_layers_{}_mlp_fc1", "whole"),
        ("text_encoder.text_model.encoder.layers.{}.self_attn.out_proj", "whole"),
        ("lora_te3_encoder_block_{}_layer_0_SelfAttention_q", "whole"),
        ("lora_te1_encoder_layers_{}_self_attn_q_proj", "nothing"),
        ("text_encoder.encoder.layers.{}.mlp.fc1", "nothing"),
    ],
)
def test_forge_ignores_a_file_for_the_names_of_its_text_encoder(
    made: Callable[[str], Any], tmp_path: Path, name: str, outcome: str
) -> None:
    """Forge's load_lora was given CLIP and T5 under each of these names."""
    tensors, _ = written("flux1", made("flux1"), Form("lora_unet_", "N", "du"), ALPHA)
    pair = {"lora_down.weight": torch.ones(RANK, 8), "lora_up.weight": torch.ones(8, RANK)}
    text = {f"{name.format(block)}.{suffix}": one.clone() for block in range(7) for suffix, one in pair.items()}
    save_file({**tensors, **text}, tmp_path / "lora.safetensors")
    assert of("Forge", tmp_path / "lora.safetensors", "flux1").outcome == outcome


def test_forge_does_not_see_alphas_in_the_metadata(made: Callable[[str], Any], tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    for alpha in (RANK, 2 * RANK):
        stated = {"transformer.r": RANK, "transformer.lora_alpha": alpha}
        tensors, _ = written("flux1", made("flux1"), Form("transformer.", "D", "AB"), None)
        save_file(tensors, path, {"lora_adapter_metadata": json.dumps(stated)})
        found = of("Forge", path, "flux1")
        assert (found.outcome, found.has_other_strength) == ("whole", alpha != RANK)


@pytest.mark.parametrize(
    ("suffix", "path", "comfyui"),
    [("", "", "whole"), ("diff_b", "double_blocks.0.img_attn.proj", "whole"), ("diff", "final_layer.norm", "unknown")],
)
def test_differences_that_were_not_tried_are_not_said_to_be_read_or_lost(
    tmp_path: Path, suffix: str, path: str, comfyui: str
) -> None:
    name = "diffusion_model.double_blocks.0.img_attn.proj"
    tensors = {f"{name}.lora_down.weight": torch.ones(2, 8), f"{name}.lora_up.weight": torch.ones(8, 2)}
    tensors |= {f"diffusion_model.{path}.{suffix}": torch.ones(8)} if suffix else {}
    save_file(tensors, tmp_path / "lora.safetensors")
    outcomes = [of(program, tmp_path / "lora.safetensors", "flux1").outcome for program in ("diffusers", "Forge")]
    assert (
        outcomes == {"": ["whole", "whole"], "diff_b": ["unknown", "unknown"], "diff": ["refused", "unknown"]}[suffix]
    )
    assert of("ComfyUI", tmp_path / "lora.safetensors", "flux1").outcome == comfyui


def test_layers_that_comfyui_does_not_know_by_diffusers_names(made: Callable[[str], Any], tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    for names, prefix, lost in (("D", "transformer.", 5), ("N", "diffusion_model.", 0)):
        tensors, wanted = written("flux2_klein", made("flux2_klein"), Form(prefix, names, "AB"), None)
        save_file(tensors, path)
        assert of("ComfyUI", path, "flux2_klein").layers == len(wanted) - lost
