"""The families of models by the names of layers in LoRA files, and the layers that the names stand for.

Families that this program trains have frozen tables of names; of all others only enough is known to name them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from lorasmith.exporting.formats import all_names, parse_native
from lorasmith.exporting.name_table import NameTable, Row, parse_table
from lorasmith.families import FAMILIES, layer_names, native_names, relatives, text_names
from lorasmith.lora_files.keys import DOWN
from lorasmith.lora_files.modules import Module

FAMILY_NAMES = {
    "sd15": "SD 1.x",
    "sd2": "SD 2.x",
    "sdxl": "SDXL",
    "krea2": "Krea 2",
    "qwen_image21": "Qwen-Image 2.1",
    "anima": "Anima",
    "zimage": "Z-Image",
    "flux2_klein": "FLUX.2 klein",
    "flux1": "FLUX.1",
    "flux2": "FLUX.2",
    "chroma": "Chroma",
    "sd3": "SD 3",
    "qwen": "Qwen-Image",
    "lumina2": "Lumina 2",
    "wan": "Wan",
    "hunyuan_video": "HunyuanVideo",
    "cascade": "Stable Cascade",
    "ernie": "ERNIE-Image",
    "ideogram4": "Ideogram 4",
    "dit": "DiT (LTX, PixArt, Sana …)",
}
"""Code -> the name that people know."""

_PREFIX = re.compile(r"lora_(unet|te\d?|transformer)_|(diffusion_model|transformer|unet|text_encoder(_\d)?)\.")
_QWEN = re.compile(r"(^|_)transformer_blocks_\d+_(img|txt)_(mod|mlp)_")
"""Layers of Qwen-Image alone, whose attention has names that other families have too."""
_FOREIGN = (  # a path that only layers of this family have; asked in this order
    ("krea2", r"(^|_)(text_fusion|txtfusion)_"),  # with queries, keys and values as one, which no table has
    ("ernie", r"^layers_\d+_(self_attention_|mlp_(gate_proj|up_proj|linear_fc2)$)"),
    ("ideogram4", r"^layers_\d+_attention_o$|llm_cond_(proj|norm)$"),
    ("hunyuan_video", r"_(img|txt)_mod_linear$|individual_token_refiner|_modulation_linear$"),
    ("chroma", r"distilled_guidance_layer"),
    ("flux2", r"(single|double)_stream_modulation|single_transformer_blocks_\d+_attn_to_qkv_mlp_proj"),
    ("flux1", r"(^|_)(double_blocks|single_blocks|single_transformer_blocks)_\d"),
    ("qwen", _QWEN.pattern),
    ("sd3", r"(^|_)joint_blocks_\d|_(norm1_context|ff_context)_|(^|_)transformer_blocks_\d+_attn_add_"),
    ("zimage", r"^(layers|noise_refiner|context_refiner)_\d+_(attention|feed_forward|adaLN_modulation)_"),
    ("wan", r"^_?blocks_\d+_(self_attn|cross_attn|ffn|attn\d_to)_"),
    ("sdxl", r"^(input_blocks|middle_block|output_blocks)_\d"),
    ("sd15", r"^(down_blocks|mid_block|up_blocks)_"),
    ("dit", r"^transformer_blocks_\d"),
)
_OF_ONE_AUTHOR = {"flux1": ("flux1", "flux2_klein")}
"""Pattern's family -> those whose sizes decide then."""
_BLOCK = re.compile(r"(?:^|_)(single_transformer_blocks|transformer_blocks|single_blocks|double_blocks|layers)_(\d+)_")
_NATIVE_BLOCKS = {"double_blocks": "transformer_blocks", "single_blocks": "single_transformer_blocks"}
_OF_WIDTH = re.compile(
    r"(to_([qkv]|out_0|qkv|added_qkv|add_out|qkv_mlp_proj)|add_[qkv]_proj|attn_(qkv|proj|w[qkvo])|attention_(qkv|out)"
    r"|linear1|mlp_0|net_0_proj|feed_forward_w[13])$"
)
"""Layers in blocks whose inputs are as many as the block is wide, in all families with a `Published` width."""
_MARKS = (  # what metadata may begin with, after "ss_base_model_version" or "modelspec.architecture"
    ("sdxl", ("sdxl_", "stable-diffusion-xl")),
    ("sd2", ("sd_v2", "stable-diffusion-v2")),
    ("sd15", ("sd_v1", "stable-diffusion-v1")),
    ("krea2", ("krea2", "krea-2")),
    ("qwen_image21", ("qwen_image_21", "qwen-image-2.1")),
    ("anima", ("anima",)),
    ("zimage", ("zimage", "z-image", "z_image")),
    ("flux2_klein", ("flux2_klein", "flux2-klein", "flux-2-klein")),
    ("flux2", ("flux2", "flux-2")),
    ("flux1", ("flux1", "flux-1")),
    ("chroma", ("chroma",)),
    ("lumina2", ("lumina2", "lumina-2")),
    ("sd3", ("sd3", "stable-diffusion-3")),
)


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers of a family that this program trains, by all names that files have for them."""

    table: NameTable  # the names that this program writes, also those of `families.text_names`
    known: NameTable  # the names of all forms: `all_names`
    canonical: Mapping[str, str]  # module of `known` -> the first of those for the same layers
    by_path: Mapping[tuple[str, str], str]  # (component, path with "_" for ".") -> such a first module
    joined: Mapping[str, str]  # a row of `known` -> the target of the layer that it is trained in, with others

    def module_of(self, module: Module) -> str:
        """The name in `known` of a file's module, that of the table if it has one; "" where the family has no such
        layer."""
        if module.name in self.known.modules:
            return self.canonical[module.name]
        found = self.by_path.get((module.component, module.path), "")
        if not found and module.component.startswith("text_encoder"):
            # Since transformers 5.6 the modules of CLIP lack the first part of the name that files have.
            found = self.by_path.get((module.component, f"text_model_{module.path}"), "")
        return found

    def rows_of(self, module: Module) -> tuple[Row, ...]:
        """The layers that a file's module stands for; more than one where the file fuses them."""
        return self.known.modules.get(self.module_of(module), ())


@cache
def layers_of(family: str) -> Layers:
    """The layers of a family, a key of `families.FAMILIES`."""
    rows_of_text = text_names(family).partition("\n")[2]  # without the names of the columns
    table = parse_table(family, layer_names(family) + rows_of_text)
    known = all_names(table, parse_native(native_names(family)))
    by_path: dict[tuple[str, str], str] = {}
    first: dict[tuple[str, ...], str] = {}
    canonical = {
        name: first.setdefault(tuple(row.target for row in rows), name) for name, rows in known.modules.items()
    }
    for name, rows in known.modules.items():
        prefix = _PREFIX.match(name)
        if prefix:
            by_path.setdefault((rows[0].component, name.removeprefix(prefix[0]).replace(".", "_")), canonical[name])
        if len(rows) == 1:
            component, _, path = rows[0].target.partition(".")
            by_path.setdefault((component, path.replace(".", "_")), canonical[name])
    joined = {piece: target for target, pieces in known.pieces.items() for piece in pieces}
    return Layers(table, known, canonical, by_path, joined)


@cache
def trains_text(family: str) -> bool:
    """Whether an adapter of this family may change a text encoder."""
    rows = parse_table(family, layer_names(family)).targets.values()
    return any(row.component != "denoiser" for row in rows)


def families_of(modules: Sequence[Module], metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The families that the layers may be of, as keys of FAMILY_NAMES: several where nothing decides between them,
    none where no layer is known.

    The families count whose tables know most of the names. Among those the numbers of inputs and of blocks decide where
    they are those of published models; else the sizes of the layers, then sd-scripts' exact names, then the metadata,
    then whether layers are convolutions: SD 1.x and 2.x share all names of their UNets.
    """
    marked = marked_family(metadata)
    known = {family: _known(family, modules, marked) for family in FAMILIES}
    most = max(map(len, known.values()))
    found = [family for family in FAMILIES if len(known[family]) == most]
    # Not every table has the layers of text encoders, and those of CLIP are in many.
    counted = [module for module in modules if module.component == "denoiser"] or modules
    unknown = min(
        ([module for module in counted if not layers_of(family).module_of(module)] for family in found), key=len
    )
    if not most or len(unknown) * 2 >= len(counted) or any(_QWEN.search(module.path) for module in unknown):
        named = _foreign(modules) or marked
        return (named,) if named else ()
    scores = {family: _score(family, known[family], modules, marked) for family in found}
    published = _published(found, modules)
    if published:
        found = (
            [marked] if marked in published else sorted(published, key=lambda name: scores.get(name, ()), reverse=True)
        )
    else:
        best = max(scores.values())
        found = [family for family in found if scores[family] == best]
    others = {*(_foreign_path(module.path) for module in modules), marked}
    namesakes = ((name, relatives(name).namesake) for name in found)
    return tuple(other if other and other in others else name for name, other in namesakes)


def _score(family: str, known: Sequence[Module], modules: Sequence[Module], marked: str) -> tuple[int, ...]:
    layers = layers_of(family)
    fitting = sum(_fits(module, layers.rows_of(module)) for module in known)
    exact = sum(module.name in layers.table.modules for module in modules)
    formed = sum(_has_form(module, layers.rows_of(module)) for module in known)
    return fitting, exact, family == marked, formed


def _published(families: Sequence[str], modules: Sequence[Module]) -> list[str]:
    """The families, of these and their relatives, with a published model that has layers of these sizes and as many
    blocks; none where no published model has such sizes."""
    widths: set[int] = set()
    last: dict[str, int] = {}
    for module in modules:
        block = _BLOCK.search(module.path)
        if not block:
            continue
        blocks = _NATIVE_BLOCKS.get(block[1], block[1])
        last[blocks] = max(last.get(blocks, 0), int(block[2]))
        if module.layer_shape and _OF_WIDTH.search(module.path):
            widths.add(module.layer_shape[1])
    models = [model for family in families for model in relatives(family).published]
    fitting = [
        model.family
        for model in models
        if model.width in widths and all(number < model.depths.get(name, number + 1) for name, number in last.items())
    ]
    return list(dict.fromkeys(fitting))


def _known(family: str, modules: Sequence[Module], marked: str) -> list[Module]:
    """The modules that are layers of the family; none where layers whose names others have are of other proportions,
    unless the metadata name the family."""
    layers = layers_of(family)
    known = [module for module in modules if layers.module_of(module)]
    if text_names(family) and not any(module.component == "denoiser" for module in known):
        return []  # a text encoder alone is of the families that train it
    alike = relatives(family).alike
    if alike and family != marked:
        pattern = re.compile(alike)
        shared = (module for module in known if pattern.search(module.path))
        if not all(_has_proportions(module, layers.rows_of(module)) for module in shared):
            return []
    return known


def _has_proportions(module: Module, rows: Sequence[Row]) -> bool:
    """Whether the module has as many outputs for its inputs as the published model's layer, as far as is known."""
    if not module.layer_shape:
        return True
    outputs, inputs = module.layer_shape
    return outputs * rows[0].layer.inputs == inputs * sum(row.layer.outputs for row in rows)


def _fits(module: Module, rows: Sequence[Row]) -> bool:
    """Whether the module has the size of the published model's layer."""
    shape = module.layer_shape
    return shape == (sum(row.layer.outputs for row in rows), rows[0].layer.inputs) if rows else False


def _has_form(module: Module, rows: Sequence[Row]) -> bool:
    """Whether the module is for a linear layer or for a convolution, as the published model's layer is."""
    down = module.tensors.get(DOWN)
    return down is not None and len(down.shape) == 2 + len(rows[0].layer.kernel)


def _foreign(modules: Sequence[Module]) -> str:
    """The family that most of the layers are of, by patterns."""
    counted: Counter[str] = Counter()
    for module in modules:
        if module.name.startswith("lora_prior_unet_"):
            counted["cascade"] += 1
        elif module.component == "denoiser":
            counted[_foreign_path(module.path)] += 1
    del counted[""]
    for family, _ in _FOREIGN:  # the first that occurs: later patterns fit its layers too
        if counted[family]:
            return next(iter(_published(_OF_ONE_AUTHOR.get(family, (family,)), modules)), family)
    return "cascade" if counted["cascade"] else ""


@cache
def _patterns() -> tuple[tuple[str, Callable[[str], object]], ...]:
    return tuple((family, re.compile(pattern).search) for family, pattern in _FOREIGN)


def _foreign_path(path: str) -> str:
    return next((family for family, search in _patterns() if search(path)), "")


def marked_family(metadata: Mapping[str, str]) -> str:
    """The family that the metadata name; "" where they name none."""
    stated = (metadata.get("ss_base_model_version", ""), metadata.get("modelspec.architecture", ""))
    for family, beginnings in _MARKS:
        if any(text.lower().startswith(beginnings) for text in stated):
            return family
    return ""
