"""The frozen names of the families are those published, with the sizes that the libraries build."""

import hashlib
from importlib import resources

import pytest
import torch
from diffusers import UNet2DConditionModel

from lorasmith.adapters.base import LayerSettings
from lorasmith.adapters.lora import Lora
from lorasmith.config import AdapterConfig
from lorasmith.demo.layouts import LAYOUTS, text_config, text_shapes, unet_config
from lorasmith.demo.sd2_layout import sd2_configs
from lorasmith.demo.sdxl_layout import sdxl_configs
from lorasmith.errors import ConfigError
from lorasmith.exporting.name_table import ALPHA, NameTable, parse_table
from lorasmith.families.clip_bpe import CLIP_TOKENS
from lorasmith.families.sdxl.layout import from_sgm
from lorasmith.session.name_tables import check_export_format, name_table, other_table
from lorasmith.targets import LayerSpec
from tests.families.tiny import real_sdxl_shapes

# SHA-256 of the literal files but for their last column, the preset.
TABLES = {
    "sd15": "8eae891abd8cc48dfa31948d2562b888582dfa0c4d46309b9345c62a512d08f3",
    "sd2": "18d6b816764024afbb43cf0c0ecdce3f43cadc9bcb6f9dfc3d9116c26aea484a",
    "sdxl": "18568ae44970fa42b0dc7497c1ee70a1bea8d5b93566a0c9a6f75fa755f9d599",
}

# Of "name shape" of every tensor in the files that sd-scripts writes, sorted, a line each: network_dim 8, and conv_dim
# 4 in the second hash. From sd-scripts 48d368fa557731ad0488c07304dfeba8c07910eb (2026-02-16):
# `networks.lora.create_network` on its own UNet and transformers 4.54.1's text encoders at the published sizes, then
# `save_weights`. For sd2 its UNet was built with the linear projections of the published folders (see docs/formats.md).
WRITTEN = {
    "sd15": (
        "9b8608904b89d198c6bb60c13b7d9493746dfb1444e33b7b9d77fd656986623b",
        "f28de46be2d51f56e47c15e226a0bd69249c262910093ea163e3f989c43f0244",
    ),
    "sd2": (
        "e363c2b2a6160f1283efdc90d36e65a3b37ea87857ebef3923be50af1918ef61",
        "98e0cfeae2d10e13aec6309a8c6d916b8080ddf84afbfbb22444f548524bc276",
    ),
    "sdxl": (
        "67456fe1be80cab05417a0cca017bac9cbdbd037b557878180de58637f4e1b7d",
        "6b4560af6f35a5aed14a56b43cca27049773edb6d383b47701fa18a86271bc38",
    ),
}

# Modules of the UNet, with convolutions, and of each text encoder.
COUNTS = {"sd15": (192, 278, [72]), "sd2": (192, 278, [138]), "sdxl": (722, 788, [72, 192])}
_ATTENTION = (".proj_in", ".proj_out", ".to_q", ".to_k", ".to_v", ".to_out.0", ".ff.net.0.proj", ".ff.net.2")


def text_of(family: str) -> str:
    return (resources.files("lorasmith.families") / family / "layer_names.tsv").read_text(encoding="ascii")


def table_of(family: str) -> NameTable:
    return parse_table(family, text_of(family))


@pytest.mark.parametrize("family", TABLES)
def test_the_literal_files_are_frozen(family: str) -> None:
    lines = (line.rpartition("\t")[0] + "\n" for line in text_of(family).splitlines())
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == TABLES[family]


@pytest.mark.parametrize("family", TABLES)
def test_every_module_is_a_layer_of_its_own(family: str) -> None:
    table = table_of(family)
    unet = [row for row in table.targets.values() if row.component == "denoiser"]
    attention = [row for row in unet if row.target.endswith(_ATTENTION)]
    assert (len(attention), len(unet)) == COUNTS[family][:2]
    names = ("text_encoder", "text_encoder_2")[: len(COUNTS[family][2])]
    assert [sum(row.component == name for row in table.targets.values()) for name in names] == COUNTS[family][2]
    assert len(table.modules) == len(table.targets)
    assert all(row.target.startswith(f"{row.component}.") and row.part is None for row in table.targets.values())


@pytest.mark.parametrize("family", TABLES)
@pytest.mark.parametrize("convolutions", [False, True])
def test_names_and_shapes_are_those_that_sd_scripts_writes(family: str, convolutions: bool) -> None:
    lines: list[str] = []
    for module, (row,) in table_of(family).modules.items():
        if not convolutions and row.component == "denoiser" and not row.target.endswith(_ATTENTION):
            continue
        rank = 4 if row.layer.kernel == (3, 3) else 8
        shapes = {**Lora().shapes(row.layer, LayerSettings(rank, rank)), ALPHA: ()}
        lines += [f"{module}.{suffix} {'x'.join(map(str, shape))}\n" for suffix, shape in shapes.items()]
    assert hashlib.sha256("".join(sorted(lines)).encode()).hexdigest() == WRITTEN[family][convolutions]


@pytest.mark.parametrize("family", TABLES)
def test_a_family_has_the_table_of_its_folder(family: str) -> None:
    assert name_table(family) == table_of(family)


def test_sizes_are_those_of_the_real_model() -> None:
    table = name_table("sd15")
    layers = {module: rows[0].layer for module, rows in table.modules.items()}
    feed_forward = layers["lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj"]
    assert feed_forward == LayerSpec(10240, 1280)
    assert layers["lora_unet_up_blocks_3_attentions_2_proj_out"].weight_shape == (320, 320, 1, 1)
    assert layers["lora_unet_up_blocks_3_resnets_2_conv1"].weight_shape == (320, 640, 3, 3)
    # the size people know of files with rank 128 in half precision: 144 MiB
    usual = [
        row.layer for row in table.targets.values() if "resnets" not in row.target and "samplers" not in row.target
    ]
    assert sum(layer.inputs + layer.outputs for layer in usual) * 128 * 2 == 144 * 2**20


@pytest.mark.parametrize("family", TABLES)
def test_sizes_are_those_the_libraries_build(family: str) -> None:
    configs = {
        "sd15": {"unet": unet_config(LAYOUTS["sd15"]), "text_encoder": text_config(LAYOUTS["sd15"], CLIP_TOKENS)},
        "sd2": sd2_configs("sd2", CLIP_TOKENS),
        "sdxl": sdxl_configs("sdxl", CLIP_TOKENS),
    }[family]
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(configs["unet"])
    shapes = {f"denoiser.{name}": tuple(tensor.shape) for name, tensor in unet.state_dict().items()}
    for part in ("text_encoder", "text_encoder_2"):
        if part in configs:
            shapes |= {f"{part}.{name}": shape for name, shape in text_shapes(configs[part]).items()}
    rows = table_of(family).targets
    assert {name: row.layer.weight_shape for name, row in rows.items()} == {
        name: shapes[f"{name}.weight"] for name in rows
    }


def test_names_of_sdxl_are_the_paths_in_its_single_files() -> None:
    """ComfyUI takes the names of layers from there."""
    places = from_sgm("unet", real_sdxl_shapes())
    for row in table_of("sdxl").targets.values():
        if row.component == "denoiser":
            stored = places[f"{row.target.removeprefix('denoiser.')}.weight"].name
            path = stored.removeprefix("model.diffusion_model.").removesuffix(".weight")
            assert row.module == f"lora_unet_{path.replace('.', '_')}"


def test_second_files_of_kinds_that_readers_do_not_know_are_refused() -> None:
    assert other_table("sd15", "kohya") is None is other_table("krea2", "comfyui")
    check_export_format("kohya", AdapterConfig(kind="lokr"), "krea2")
    check_export_format("diffusers", AdapterConfig(), "sdxl")
    for kind in ("lokr", "loha", "dora"):
        with pytest.raises(ConfigError, match="export_format_kind"):
            check_export_format("diffusers", AdapterConfig(kind=kind), "sdxl")
