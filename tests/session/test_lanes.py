"""The lane of a run by the memory of its device: SDXL and SD 1.5 by the configs of their published models."""

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import Krea2Transformer2DModel

from lorasmith.config import RunConfig
from lorasmith.data.types import Example, Offset, Size
from lorasmith.errors import ConfigError
from lorasmith.families import footprint_of
from lorasmith.families.flow_footprint import with_encoders
from lorasmith.families.krea2.footprint import denoiser_footprint
from lorasmith.families.recognize import recognize
from lorasmith.families.weights import BaseWeights, ComponentNames, NoiseSettings
from lorasmith.session.lanes import (
    CHECKPOINTING,
    OFFLOAD,
    PRECISION,
    TEXT_FORM,
    VAE_TILE,
    Lane,
    LaneEstimate,
    chosen,
    estimates,
    size_of,
)
from tests.families.krea2.miniature import make_model as make_krea2

GIB = 1 << 30
PARAMETERS = {"sd15": 859_520_964, "sdxl": 2_567_463_684}
CUDA = {("machine", "device"): "cuda"}


def weights_of(family: str) -> BaseWeights:
    folder = files(f"lorasmith.families.{family}") / "configs"
    configs = {Path(str(path)).stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.iterdir()}
    names = ComponentNames({}, {}, {}, lambda _, names: {}, lambda _, names: {})
    return BaseWeights(
        path=Path("model"),
        layout="single_file",
        family=family,
        noise=NoiseSettings("epsilon", False, "default"),
        resolution=512,
        size_multiple=8,
        bucket_step=64,
        denoiser_parameters=PARAMETERS[family],
        max_clip_skip=None,
        configs=configs,
        names=names,
    )


def found(
    family: str, side: int, memory: float, values: dict[tuple[str, str], Any] | None = None, text_pixels: int = 0
) -> list[LaneEstimate]:
    weights = weights_of(family)
    config = RunConfig().with_values({("model", "family"): family, **CUDA, **(values or {})})
    sizes = footprint_of(weights)
    assert sizes is not None
    fixed = (values or {}).keys()
    sizes = replace(sizes, text_pixels=text_pixels)
    return estimates(config, weights, sizes, [example(side)], memory=int(memory * GIB), fixed=fixed)


def example(side: int) -> Example:
    size = Size(side, side)
    return Example(Path("a"), "words", 1, size, size, size, Offset(0, 0), "sha", "hash")


@pytest.mark.parametrize(
    ("family", "side", "memory", "lane"),
    [
        ("sdxl", 1024, 24, Lane("none", "auto", 0.0)),
        ("sdxl", 1024, 12, Lane("feed-forward", "auto", 0.0)),
        ("sdxl", 1024, 8, Lane("selective", "auto", 0.0)),
        ("sdxl", 1024, 7.5, Lane("block", "auto", 0.0)),
        ("sdxl", 1024, 6, Lane("selective", "int8", 0.0)),
        ("sdxl", 1024, 5.25, Lane("block", "int8", 0.0)),
        ("sdxl", 1024, 4.5, Lane("block", "int8", 0.25)),
        ("sdxl", 1024, 4, Lane("block", "int8", 0.5)),
        ("sd15", 512, 4, Lane("none", "auto", 0.0)),
        ("sd15", 512, 3, Lane("selective", "auto", 0.0)),
        ("sd15", 512, 2.75, Lane("block", "auto", 0.0)),
    ],
)
def test_the_fastest_that_fits(family: str, side: int, memory: float, lane: Lane) -> None:
    estimate = chosen(found(family, side, memory), memory=f"{memory}GiB")
    assert estimate.lane == lane
    assert estimate.total <= memory * GIB


def test_beside_what_was_published() -> None:
    """SimpleTuner, SDXL at 1024 pixels in bf16, LoKr on an H100: 13.0 GiB, and 6.5 GiB with every layer computed twice
    (reference of docs/memory.md). A rank of 16 in 722 layers takes somewhat more."""
    by_level = {estimate.lane: estimate.total / GIB for estimate in found("sdxl", 1024, 24)}
    assert 13.0 * 0.95 < by_level[Lane("none", "auto", 0.0)] < 13.0 * 1.15
    assert 6.5 * 0.95 < by_level[Lane("block", "auto", 0.0)] < 6.5 * 1.15


def test_pictures_are_encoded_in_tiles_where_the_vae_would_not_fit() -> None:
    tiles = {memory: chosen(found("sdxl", 1024, memory), memory="").settings[VAE_TILE] for memory in (4, 8)}
    assert tiles == {4: 512, 8: 0}
    assert chosen(found("sdxl", 1024, 6, {VAE_TILE: 0}), memory="").settings[VAE_TILE] == 0


@pytest.mark.parametrize(
    ("memory", "lane", "form"),
    [
        (48, Lane("elementwise", "auto", 0.0), "auto"),
        (24, Lane("block", "auto", 0.25), "auto"),
        (23, Lane("selective", "int8", 0.0), "auto"),
        (20, Lane("block", "int8", 0.0), "auto"),
        (16, Lane("block", "int8", 0.25), "auto"),
        (12, Lane("block", "int8", 0.5), "auto"),
        (7, Lane("block", "int8", 1.0), "int8"),
        (5.6, Lane("block", "auto", 1.0), "int8"),
        (5.3, Lane("offload", "auto", 1.0), "int8"),
    ],
)
def test_a_model_of_12_billion_parameters(tmp_path: Path, memory: float, lane: Lane, form: str) -> None:
    """Krea 2 of the published size at 1024 pixels, with 4e9 parameters of its text encoder: a language model that does
    not fit is kept in 8 bits. Of a base in 8 bits at most half as much is copied in a step as of one in 16."""
    weights = recognize(make_krea2(tmp_path / "model"))
    with torch.device("meta"):
        config = dict(Krea2Transformer2DModel().config)
    sizes = with_encoders(
        denoiser_footprint(config, 12_820_000_000), text_parameters=4_000_000_000, vae_parameters=127_000_000
    )
    settings = {("machine", "device"): "cuda", ("model", "family"): "krea2"}
    asked = RunConfig().with_values(settings)
    estimate = chosen(estimates(asked, weights, sizes, [example(1024)], memory=int(memory * GIB)), memory="")
    assert (estimate.lane, estimate.text_form) == (lane, form)
    with pytest.raises(ConfigError, match="memory_too_small"):
        least = estimates(asked, weights, sizes, [example(1024)], memory=7 * GIB, fixed={TEXT_FORM})
        chosen(least, memory="")


def test_what_somebody_has_set_stays() -> None:
    for memory in (4, 8, 24):
        estimate = chosen(found("sdxl", 1024, memory, {PRECISION: "nf4", CHECKPOINTING: "block"}), memory="")
        assert (estimate.lane.precision, estimate.lane.checkpointing) == ("nf4", "block")
    assert {estimate.lane.offload for estimate in found("sdxl", 1024, 8, {OFFLOAD: 0.5})} == {0.5}


def test_no_lane_for_another_device_or_adapter() -> None:
    on_cpu = found("sd15", 512, 8, {("machine", "device"): "cpu"})
    assert all(estimate.lane.offload == 0 and estimate.lane.checkpointing != "offload" for estimate in on_cpu)
    assert any(estimate.lane.precision == "int8" for estimate in on_cpu)
    of_dora = found("sd15", 512, 8, {("adapter", "kind"): "dora"})
    assert all(estimate.lane.precision == "auto" and estimate.lane.offload == 0 for estimate in of_dora)


def test_larger_batches_take_more() -> None:
    small, large = (found("sd15", 512, 8, {("training", "batch_size"): size})[0] for size in (1, 4))
    assert large.activations == pytest.approx(4 * small.activations, rel=0.001)
    assert large.base == small.base


def test_texts_that_take_as_much_as_pictures_count_as_such() -> None:
    without, with_text = found("sdxl", 512, 24), found("sdxl", 512, 24, text_pixels=64 * 64)
    assert with_text[0].activations == pytest.approx(2 * without[0].activations, abs=1)


def test_too_little() -> None:
    with pytest.raises(ConfigError) as caught:
        chosen(found("sdxl", 1024, 1), memory="1GiB")
    assert caught.value.code == "memory_too_small"
    assert caught.value.fields == {"memory": "1GiB", "least": "3.7 GiB"}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("8", 8 * GIB), ("8GiB", 8 * GIB), ("8G", 8 * GIB), ("8192MiB", 8 * GIB), ("7.5 gib", 15 * GIB // 2)),
        *(("8GB", 8 * 10**9), ("500MB", 500 * 10**6)),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert size_of(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "0", "-8GiB", "8TiB", "8GiB x", "eight", "9" * 400])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        size_of(text)
    assert caught.value.code == "memory_size"
