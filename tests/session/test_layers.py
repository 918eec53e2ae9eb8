"""The choice of layers: by the published names of the families, and the sizes that follow."""

from collections import Counter
from typing import Any

import pytest

from lorasmith.config import AdapterConfig
from lorasmith.errors import ConfigError
from lorasmith.session.layers import (
    LayerSize,
    by_block,
    check_block_effects,
    check_blocks,
    chosen_layers,
    published_layers,
)

ALL = published_layers("sd15", with_text_encoders=True)
DENOISER = published_layers("sd15", with_text_encoders=False)


def sizes(**settings: Any) -> Counter[LayerSize]:
    return Counter(chosen_layers(AdapterConfig(**settings), "sd15", ALL).values())


def refusal(**settings: Any) -> str:
    config = AdapterConfig(**settings)
    with pytest.raises(ConfigError) as caught:
        chosen_layers(config, "sd15", ALL if config.train_text_encoder else DENOISER)
    return caught.value.code


def test_convolutions_have_a_rank_of_their_own_and_1x1_ones_do_not() -> None:
    """As in sd-scripts: time embeddings and shortcuts of the convolutional blocks have the rank of all others."""
    assert len(DENOISER) == 278 and len(ALL) == 278 + 72
    assert sizes(rank=8, alpha=2.0) == {(8, 2.0): 192 + 72}
    assert sizes(rank=8, alpha=2.0, conv_rank=4) == {(8, 2.0): 228 + 72, (4, 4.0): 50}
    assert sizes(rank=8, conv_rank=8, conv_alpha=1.0) == {(8, 8.0): 228 + 72, (8, 1.0): 50}
    chosen = chosen_layers(AdapterConfig(conv_rank=4), "sd15", DENOISER)
    assert {ALL[name].kernel for name, size in chosen.items() if size.rank == 4} == {(3, 3)}
    assert list(chosen) == list(DENOISER)


def test_an_alpha_of_convolutions_that_are_not_trained() -> None:
    """The hint that helps differs: without targets, a rank chooses them."""
    assert refusal(conv_alpha=2.0) == "conv_alpha_unused"
    assert refusal(conv_alpha=2.0, targets="attn-only") == "conv_rank_unused"


# -- targets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "counts"),
    [
        ("attn-mlp", (192, 72)),
        ("attn-only", (128, 48)),
        ("full", (278, 72)),
        (r"attn2\.to_[kv]|mid_block\.resnets|mlp\.fc1", (32 + 6, 12)),
    ],
)
def test_presets_and_expressions(targets: str, counts: tuple[int, int]) -> None:
    chosen = chosen_layers(AdapterConfig(targets=targets, train_text_encoder=True), "sd15", ALL)
    found = Counter(name.partition(".")[0] for name in chosen)
    assert (found["denoiser"], found["text_encoder"]) == counts


@pytest.mark.parametrize(
    ("family", "counts"),
    [
        ("sdxl", (722 + 264, 544 + 192, 788 + 264)),
        ("qwen_image21", (224, 128, 232)),
        ("krea2", (224, 140, 264)),
        ("anima", (520, 416, 838)),
        ("zimage", (210, 120, 276)),
        ("flux2_klein", (112, 80, 120)),
        ("flux1", (418, 266, 503)),
    ],
)
def test_the_tables_have_the_presets(family: str, counts: tuple[int, int, int]) -> None:
    """As docs/layers.md lists them: blocks without what sees the noise level alone, and their attention."""
    published = published_layers(family, with_text_encoders=True)
    config = AdapterConfig(train_text_encoder=family == "sdxl")
    found = [
        chosen_layers(config.model_copy(update={"targets": targets}), family, published)
        for targets in ("attn-mlp", "attn-only", "full")
    ]
    assert tuple(map(len, found)) == counts and found[1].keys() < found[0].keys() < found[2].keys()


def test_a_dora_leaves_out_a_layer_with_a_single_output() -> None:
    """Krea 2's projector. ComfyUI decides by the first side of the magnitudes whose they are, and that side is 1."""
    published = published_layers("krea2", with_text_encoders=True)
    whole, without = (
        chosen_layers(AdapterConfig(targets="full", kind=kind), "krea2", published) for kind in ("lora", "dora")
    )
    assert whole.keys() - without.keys() == {"denoiser.text_fusion.projector"} and len(without) == 263


def test_convolutions_alone() -> None:
    chosen = chosen_layers(AdapterConfig(targets="unet-convblock-only", rank=8, conv_rank=2), "sd15", DENOISER)
    assert Counter(size.rank for size in chosen.values()) == {8: 36, 2: 50}
    assert chosen == chosen_layers(AdapterConfig(targets="unet-convblock-only", rank=8, conv_rank=2), "sd15", ALL)


def test_chosen_convolutions_have_the_rank_of_all_where_they_have_none() -> None:
    assert sizes(targets="full", rank=8, alpha=2.0) == {(8, 2.0): 350}


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"targets": "resnet["}, "targets_invalid"),
        ({"targets": "conv_in"}, "targets_none"),
        ({"block_ranks": {"denoiser": 0}}, "block_ranks_leave_nothing"),
        ({"targets": "unet-convblock-only", "train_text_encoder": True}, "targets_no_text_encoder"),
        ({"targets": "attn-only", "conv_rank": 4}, "conv_rank_unused"),
        ({"targets": "to_q|q_proj|fc1", "train_text_encoder": True}, "targets_without_output"),
    ],
)
def test_choices_that_are_refused(settings: dict[str, Any], code: str) -> None:
    assert refusal(**settings) == code


@pytest.mark.parametrize("block", ["mid", "text_encoder", "down_blocks.4", "input_blocks.12"])
def test_a_block_that_no_layer_is_in(block: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_blocks(AdapterConfig(block_ranks={"mid_block": 4, block: 2}), "sd15")
    code = "block_text_encoder" if block == "text_encoder" else "block_unknown"
    assert (caught.value.code, caught.value.fields["block"]) == (code, block)
    if code == "block_unknown":
        named = "down_blocks.0-3, mid_block, up_blocks.0-3, input_blocks.1-11, middle_block.0-2, output_blocks.0-11"
        assert caught.value.fields["blocks"] == f"{named}, text_encoder"
        check_blocks(AdapterConfig(block_ranks={caught.value.fields["example"]: 2}), "sd15")
    if block == "text_encoder":
        check_blocks(AdapterConfig(block_ranks={block: 2}, train_text_encoder=True), "sd15")


@pytest.mark.parametrize(
    ("family", "settings", "code"),
    [
        ("sdxl", {"block_ranks": {"down_blocks.0": 4}}, "block_unused"),
        ("sd15", {"block_ranks": {"down_blocks.3": 4}, "targets": "attn-only"}, "block_unused"),
        ("sd15", {"block_ranks": {"down_blocks.0.downsamplers": 4}, "conv_rank": 2}, "block_of_convolutions"),
    ],
)
def test_a_rank_of_a_block_that_no_layer_would_have(family: str, settings: dict[str, Any], code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_block_effects(AdapterConfig(**settings), family)
    assert caught.value.code == code
    check_block_effects(AdapterConfig(**settings | {"targets": "full", "conv_rank": None}), family)
    check_block_effects(AdapterConfig(**settings | {"block_ranks": dict.fromkeys(settings["block_ranks"], 0)}), family)


# -- blocks ----------------------------------------------------------------------------------------


def test_the_smallest_block_decides() -> None:
    blocks = {"down_blocks": 4, "down_blocks.1": 2, "denoiser.down_blocks.1.attentions.1": 0, "text_encoder": 1}
    chosen = chosen_layers(AdapterConfig(rank=8, alpha=3.0, block_ranks=blocks, conv_rank=6), "sd15", ALL)
    assert chosen["denoiser.down_blocks.0.attentions.0.proj_in"] == (4, 3.0)
    assert chosen["denoiser.down_blocks.1.attentions.0.proj_in"] == (2, 3.0)
    assert chosen["denoiser.down_blocks.1.resnets.1.conv1"] == (6, 6.0)
    assert not any(name.startswith("denoiser.down_blocks.1.attentions.1.") for name in chosen)
    assert chosen["denoiser.up_blocks.1.attentions.0.proj_in"] == (8, 3.0)
    assert {size for name, size in chosen.items() if name.startswith("text_encoder.")} == {(1, 3.0)}


def test_the_names_of_blocks_in_the_published_code() -> None:
    """Each block once: sd-scripts' numbers, of which the first input block has no layer that is trained."""
    names = [f"input_blocks.{n}" for n in range(1, 12)] + ["middle_block"] + [f"output_blocks.{n}" for n in range(12)]
    ranks = {name: number + 1 for number, name in enumerate(names)}
    chosen = chosen_layers(AdapterConfig(rank=1024, targets="full", block_ranks=ranks), "sd15", DENOISER)
    assert {size.rank for size in chosen.values()} == set(ranks.values())
    for path, block in {
        "down_blocks.0.resnets.0.conv1": "input_blocks.1",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.3",
        "down_blocks.1.attentions.0.proj_in": "input_blocks.4",
        "down_blocks.3.resnets.1.conv2": "input_blocks.11",
        "mid_block.attentions.0.proj_out": "middle_block",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.2",
        "up_blocks.3.attentions.2.proj_in": "output_blocks.11",
    }.items():
        assert chosen[f"denoiser.{path}"].rank == ranks[block]
    assert chosen_layers(AdapterConfig(block_ranks={"middle_block.1": 2}), "sd15", DENOISER) == chosen_layers(
        AdapterConfig(block_ranks={"mid_block.attentions": 2}), "sd15", DENOISER
    )


def test_rslora_scales_by_the_root_of_each_rank() -> None:
    found = sizes(rank=16, alpha=2.0, conv_rank=4, conv_alpha=3.0, rslora=True, block_ranks={"mid_block": 9})
    scales = {round(alpha / rank, 9) for rank, alpha in found}
    assert scales == {round(2 / 4, 9), round(3 / 2, 9), round(2 / 3, 9)}


def test_the_list_of_sd_scripts() -> None:
    """25 numbers for Stable Diffusion, 23 for SDXL."""
    for family, blocks, length in (("sd15", ("input_blocks.4", "middle_block"), 25), ("sdxl", ("input_blocks.4",), 23)):
        published = published_layers(family, with_text_encoders=False)
        config = AdapterConfig(rank=8, block_ranks=dict.fromkeys(blocks, 2) | {"output_blocks.1": 0})
        ranks = {name: size.rank for name, size in chosen_layers(config, family, published).items()}
        dims = by_block(published, ranks, untrained=0)
        assert dims is not None and len(dims) == length
        assert [number for number, dim in enumerate(dims) if dim == 2] == ([4, 12] if family == "sd15" else [5])
        assert dims[14] == 0
        ranks["denoiser.down_blocks.1.attentions.0.proj_in"] = 3
        assert by_block(published, ranks, untrained=0) is None


def test_a_model_has_fewer_blocks_than_the_deepest_of_its_family() -> None:
    depths = {"denoiser.transformer_blocks": 28}
    deepest = published_layers("anima", with_text_encoders=True)
    layers = published_layers("anima", with_text_encoders=True, depths=depths)
    assert (len(deepest), len(layers)) == (838, 454) and layers.keys() < deepest.keys()
    assert len(chosen_layers(AdapterConfig(), "anima", layers)) == 280
    assert len(chosen_layers(AdapterConfig(targets="attn-only"), "anima", layers)) == 224
