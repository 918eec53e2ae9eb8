"""Families by the names of layers."""

import re
from pathlib import Path

import pytest

from lorasmith.families import FAMILIES
from lorasmith.families.headers import TensorInfo
from lorasmith.lora_files.keys import DOWN, UP, split_key
from lorasmith.lora_files.modules import Module
from lorasmith.lora_files.names import FAMILY_NAMES, families_of, layers_of
from lorasmith.lora_files.reader import read_lora
from tests.families.tiny import each_of, write_header


def modules(*names: str, inputs: int = 64, outputs: int = 32) -> list[Module]:
    """Pairs of matrices of these layers, a name for each."""
    made = []
    for name in names:
        key = split_key(f"{name}.{UP}")
        assert key is not None
        tensors = {UP: TensorInfo("F32", (outputs, 4), 0, 0), DOWN: TensorInfo("F32", (4, inputs), 0, 0)}
        made.append(Module(name, key.naming, key.component, key.path, tensors, {}, None))
    return made


FOREIGN = {
    "lora_unet_double_blocks_0_img_attn_qkv": "flux1",
    "transformer.single_transformer_blocks.3.attn.to_q": "flux1",
    "lora_unet_double_stream_modulation_img_lin": "flux2",
    "lora_unet_distilled_guidance_layer_in_proj": "chroma",
    "lora_unet_joint_blocks_0_x_block_attn_qkv": "sd3",
    "lora_unet_transformer_blocks_0_img_mlp_net_0_proj": "qwen",
    "diffusion_model.layers.0.attention.qkv": "zimage",
    "lora_unet_blocks_0_self_attn_q": "wan",
    "lora_unet_double_blocks_0_img_mod_linear": "hunyuan_video",
    "lora_prior_unet_down_blocks_0_x": "cascade",
    "transformer.transformer_blocks.0.attn1.to_q": "dit",
}


def test_anima_has_names_of_others_with_proportions_of_its_own() -> None:
    """In diffusers' names. Others attend to texts that are as wide as their pictures, with the same names."""
    square, cross = "transformer.transformer_blocks.0.attn1.to_q", "transformer.transformer_blocks.30.attn2.to_k"
    alike = [*modules(square, inputs=64, outputs=64), *modules(cross, inputs=32, outputs=64)]
    assert families_of(alike, {}) == ("anima",)
    assert families_of(modules(square, cross, inputs=64, outputs=64), {}) == ("dit",)
    native = "diffusion_model.blocks.51.cross_attn.output_proj"
    assert families_of(modules(native), {}) == ("anima",)
    assert families_of(modules("lora_unet_blocks_0_self_attn_q_proj"), {}) == ("anima",)


@pytest.mark.parametrize("name", FOREIGN)
def test_families_that_are_not_trained_here_are_named(name: str) -> None:
    assert families_of(modules(name), {}) == (FOREIGN[name],)
    assert FOREIGN[name] in FAMILY_NAMES


def test_the_size_of_layers_decides_between_families_with_the_same_names() -> None:
    assert families_of(modules("diffusion_model.layers.0.attention.qkv", inputs=2304), {}) == ("lumina2",)
    assert families_of(modules("lora_unet_double_blocks_0_img_attn_qkv", inputs=6144), {}) == ("flux2",)
    known = [f"diffusion_model.layers.0.{layer}" for layer in ("attention.qkv", "feed_forward.w1", "feed_forward.w2")]
    assert families_of(modules(*known, inputs=3840), {}) == ("zimage",)
    assert families_of(modules(*known, inputs=2304), {}) == ("lumina2",)


def test_a_layer_of_sd15_by_any_name() -> None:
    path = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    names = (f"lora_unet_{path.replace('.', '_')}", f"unet.{path}", f"base_model.model.{path}", f"lycoris_{path}")
    for module in modules(*names):
        assert layers_of("sd15").module_of(module) == names[0]
        assert [row.target for row in layers_of("sd15").rows_of(module)] == [f"denoiser.{path}"]


SGM = "input_blocks_4_1_transformer_blocks_0_attn2_to_k"
DIFFUSERS = "down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.mark.parametrize("name", [f"lora_unet_{SGM}", f"lora_unet_{DIFFUSERS}", f"lycoris_{DIFFUSERS}",
                                  "unet.input_blocks.4.1.transformer_blocks.0.attn2.to_k"])  # fmt: skip
def test_a_layer_of_sdxl_by_any_name(name: str) -> None:
    """Its UNet has names of two programs; a layer that SD 1.x has too is known by its size."""
    (module,) = modules(name, inputs=2048, outputs=640)
    assert families_of([module], {}) == ("sdxl",)
    assert layers_of("sdxl").module_of(module) == f"lora_unet_{SGM}"


def test_families_with_the_same_names() -> None:
    name = f"lora_unet_{DIFFUSERS}"
    assert families_of(modules(name, inputs=768, outputs=640), {}) == ("sd15",)
    assert families_of(modules(name, inputs=1024, outputs=640), {}) == ("sd2",)
    assert set(families_of(modules(name), {})) == {"sd15", "sd2"}  # a miniature's: nothing decides
    assert families_of(modules(name), {"ss_base_model_version": "sd_v2_v"}) == ("sd2",)
    first = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    assert families_of(modules(first), {}) == ("sdxl",)  # the second number is SDXL's alone


def test_text_encoders_of_newer_libraries_lack_a_part_of_the_name() -> None:
    (module,) = modules("lora_te_encoder_layers_0_self_attn_q_proj")
    assert layers_of("sd15").module_of(module) == "lora_te_text_model_encoder_layers_0_self_attn_q_proj"


@pytest.mark.parametrize("name", ["lora_te1_text_model_encoder_layers_0_mlp_fc1",
                                  "text_encoder.text_model.encoder.layers.0.mlp.fc1"])  # fmt: skip
def test_a_text_encoder_alone_is_of_a_family_that_trains_it(name: str) -> None:
    """FLUX.1 has CLIP too, beside a denoiser whose layers are in every file for it."""
    clip = modules(name, inputs=768, outputs=3072)
    assert clip and "flux1" not in families_of(clip, {})
    denoiser = modules("lora_unet_single_blocks_0_linear2", inputs=15360, outputs=3072)
    assert families_of(denoiser + clip, {}) == ("flux1",)
    assert all(layers_of("flux1").module_of(module) for module in denoiser + clip)


def test_metadata_decide_where_names_do_not() -> None:
    unknown = modules("lora_unet_nothing_like_it")
    assert families_of(unknown, {}) == ()
    assert families_of(unknown, {"ss_base_model_version": "sdxl_base_v1-0"}) == ("sdxl",)
    assert families_of(unknown, {"modelspec.architecture": "flux-1-dev/lora"}) == ("flux1",)


KLEIN = {"img_attn.qkv": 3, "img_mlp.0": 6}


@pytest.mark.parametrize("width", [32, 3072, 4096, 6144])
def test_klein_has_the_names_of_its_relatives_and_sizes_of_its_own(width: int) -> None:
    """FLUX.1 has half as wide a layer before the activation, FLUX.2 dev is wider."""

    def found(proportions: dict[str, int]) -> tuple[str, ...]:
        layers = [
            modules(f"diffusion_model.double_blocks.{block}.{name}", inputs=width, outputs=width * times)
            for block in range(2)
            for name, times in proportions.items()
        ]
        return families_of([module for module, *_ in layers], {})

    assert found(KLEIN) == (("flux2",) if width == 6144 else ("flux2_klein",))
    if width == 3072:
        assert found({"img_mlp.0": 4}) == ("flux1",)


@pytest.mark.parametrize(
    ("width", "last", "family"),
    [(4096, 31, "qwen_image21"), (32, 31, "qwen_image21"), (3072, 59, "qwen"), (1536, 23, "sd3"), (2432, 37, "sd3")],
)
def test_qwen_image_21_has_the_names_of_others_in_its_attention(width: int, last: int, family: str) -> None:
    """Files of which hold it alone: with other layers their names decide."""
    blocks = (0, 9, 29, 31, last) if last > 29 else (0, 9, last)
    names = [f"transformer.transformer_blocks.{block}.attn.to_{end}" for block in blocks for end in ("q", "out.0")]
    assert families_of(modules(*names, inputs=width, outputs=width), {}) == (family,)
    fused = modules("diffusion_model.transformer_blocks.0.img_mlp.gate_up", inputs=4096, outputs=24_576)
    assert families_of(fused, {}) == ("qwen_image21",)


def test_attention_alone_is_of_every_family_whose_sizes_it_has() -> None:
    """Queries and keys have the same names in five families; the number of blocks decides where the width does not."""

    def found(width: int, blocks: int, metadata: dict[str, str] | None = None, *, ends: str = "qk") -> set[str]:
        names = [f"lora_unet_transformer_blocks_{block}_attn_to_{end}" for block in range(blocks) for end in ends]
        return set(families_of(modules(*names, inputs=width, outputs=width), metadata or {}))

    assert found(3072, 60) == found(3072, 28) == {"qwen"}  # once named Krea 2
    assert found(3072, 19) == {"qwen", "flux1"} and found(3072, 5) == {"qwen", "flux1", "flux2_klein"}
    assert found(3072, 5, {"ss_base_model_version": "flux2_klein"}) == {"flux2_klein"}
    assert found(4096, 28) == {"qwen_image21"} and found(4096, 8) == {"qwen_image21", "flux2_klein"}
    assert found(6144, 28, ends="q") == {"krea2"} and found(6144, 8, ends="q") == {"krea2", "flux2"}


def test_flux_and_klein_with_the_same_attention() -> None:
    """FLUX.1 and the smaller klein are equally wide, and klein has fewer blocks."""

    def found(count: int, width: int = 3072) -> tuple[str, ...]:
        names = [f"diffusion_model.double_blocks.{block}.img_attn.qkv" for block in range(count)]
        return families_of(modules(*names, inputs=width, outputs=3 * width), {})

    assert found(19) == found(8) == ("flux1",) and found(5) == ("flux1", "flux2_klein")
    assert found(5, 4096) == ("flux2_klein",) and found(5, 6144) == ("flux2",)


def test_chroma_is_flux_with_other_metadata_or_layers_of_its_own() -> None:
    fused = modules("lora_unet_double_blocks_18_img_attn_qkv", inputs=3072, outputs=9216)
    assert families_of(fused, {}) == ("flux1",)
    assert families_of(fused, {"modelspec.architecture": "chroma/lora"}) == ("chroma",)
    assert families_of(fused + modules("lora_unet_distilled_guidance_layer_in_proj"), {}) == ("chroma",)


LISTS = sorted((Path(__file__).parent / "published").glob("*.txt"))


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_the_family_of_a_published_file(path: Path, tmp_path: Path) -> None:
    """Where a source states no shapes, tensors have a single number: names decide."""
    source, family, *lines = path.read_text(encoding="ascii").splitlines()
    has_shapes = any(" " in line for line in lines)
    shapes = {}
    for line in lines:
        keys, *sides = line.split()
        for key in each_of(keys):
            shapes[key] = tuple(map(int, sides)) if has_shapes else (1,)
    file = read_lora(write_header(tmp_path / "lora.safetensors", shapes))
    assert FAMILY_NAMES.get(file.family, file.family) == family.removeprefix("# ")
    stated = re.search(r"all (\d+) layers", source)
    assert len(file.modules) == int(stated[1]) if stated else len(file.modules) > 0


def test_there_are_lists_of_all_families() -> None:
    """Keys and shapes of LoRA files that people have published."""
    stated = {path.read_text(encoding="ascii").splitlines()[1].removeprefix("# ") for path in LISTS}
    assert len(LISTS) >= 15 and {FAMILY_NAMES[name] for name in FAMILIES} - {"SD 1.x", "SD 2.x", "SDXL"} <= stated
