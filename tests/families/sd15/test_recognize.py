"""Stable Diffusion 1.x is recognized by headers and configs alone, and models like it are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorasmith.errors import ModelError
from lorasmith.families.recognize import recognize
from lorasmith.families.sd15.layout import usual_config
from tests.families.tiny import TEXT, UNET, edited, real_shapes, write_header

# -- what is recognised ----------------------------------------------------------------------------


def test_a_folder(miniature) -> None:
    weights = recognize(miniature.folder)
    assert (weights.layout, weights.family) == ("diffusers", "sd15")
    assert (weights.noise.prediction, weights.noise.zero_terminal_snr, weights.noise.source) == (
        "epsilon",
        False,
        "scheduler_config",
    )
    assert (weights.resolution, weights.size_multiple) == (64, 32)
    assert weights.denoiser_parameters == 2_199_268


def test_a_single_file_that_describes_itself(miniature) -> None:
    folder, single = recognize(miniature.folder), recognize(miniature.single)
    assert (single.layout, single.family, single.noise.source) == ("single_file", "sd15", "scheduler_config")
    assert (single.resolution, single.size_multiple) == (64, 32)
    assert single.denoiser_parameters == folder.denoiser_parameters
    for component in ("unet", "vae", "text_encoder", "scheduler"):
        assert single.configs[component] == folder.configs[component]


def test_a_single_file_whose_shapes_tell_it(narrow) -> None:
    folder, single = recognize(narrow.folder), recognize(narrow.single)
    assert (single.noise.prediction, single.noise.source) == ("epsilon", "default")
    assert (single.resolution, single.size_multiple) == (512, 64)
    for component in ("unet", "vae", "text_encoder"):
        deduced, true = single.configs[component], folder.configs[component]
        shared = deduced.keys() & true.keys() - {"sample_size"}
        assert len(shared) >= 10
        assert {name: deduced[name] for name in shared} == {name: true[name] for name in shared}


def test_fewer_levels_are_told_from_the_shapes(miniature, tmp_path: Path) -> None:
    def with_wide_vae(shapes: dict[str, tuple[int, ...]], metadata: dict[str, str]) -> None:
        metadata.clear()
        for name, shape in shapes.items():
            if name.startswith("first_stage_model."):
                shapes[name] = tuple(side if side in (1, 3, 4) else 32 for side in shape)
            if name == TEXT + "embeddings.token_embedding.weight":
                shapes[name] = (49_408, 64)

    weights = recognize(edited(miniature.single, tmp_path / "x.safetensors", with_wide_vae))
    assert weights.configs["unet"]["block_out_channels"] == [32, 64, 64]
    assert weights.configs["unet"]["down_block_types"] == ["CrossAttnDownBlock2D"] * 2 + ["DownBlock2D"]
    assert weights.configs["unet"]["up_block_types"] == ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 2
    assert weights.size_multiple == 32


def test_the_real_model_is_what_our_configs_say(tmp_path: Path) -> None:
    weights = recognize(write_header(tmp_path / "v1-5.safetensors", real_shapes()))
    assert weights.denoiser_parameters == 859_520_964
    for component in ("unet", "vae", "text_encoder"):
        assert weights.configs[component] == usual_config(component)


def test_a_pickle_stays_unexamined(narrow) -> None:
    weights = recognize(narrow.ckpt)
    assert (weights.layout, weights.family, weights.denoiser_parameters) == ("pickle", "", None)


# -- what is refused -------------------------------------------------------------------------------


def drop(prefix: str) -> Callable[[dict[str, tuple[int, ...]], dict[str, str]], None]:
    def edit(shapes: dict[str, tuple[int, ...]], metadata: dict[str, str]) -> None:
        for name in [name for name in shapes if name.startswith(prefix)]:
            del shapes[name]

    return edit


def put(name: str, *shape: int) -> Callable[[dict[str, tuple[int, ...]], dict[str, str]], None]:
    return lambda shapes, metadata: shapes.update({name: shape})


def linear_projections(shapes: dict[str, tuple[int, ...]], metadata: dict[str, str]) -> None:
    shapes.update({name: shape[:2] for name, shape in shapes.items() if name.endswith("proj_in.weight")})


def tag(key: str, value: str) -> Callable[[dict[str, tuple[int, ...]], dict[str, str]], None]:
    return lambda shapes, metadata: metadata.update({key: value})


@pytest.mark.parametrize(
    ("edit", "code", "fields"),
    [
        (put("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", 4, 8), "model_is_lora", {}),
        (put("unet.mid_block.attentions.0.proj_in.lora_A.weight", 4, 8), "model_is_lora", {}),
        (put("diffusion_model.blocks.0.attn.q.lora_B.weight", 4, 8), "model_is_lora", {}),
        (put("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", 4, 8), "model_is_lora", {}),
        (put(UNET + "input_blocks.0.0.weight", 32, 9, 3, 3), "model_inpainting", {"found": "SD 1.x inpainting"}),
        (
            put(UNET + "input_blocks.0.0.weight", 32, 8, 3, 3),
            "model_edits_pictures",
            {"found": "SD 1.x InstructPix2Pix"},
        ),
        (put(UNET + "input_blocks.0.0.weight", 32, 5, 3, 3), "model_other_family", {}),
        (linear_projections, "model_incomplete", {"missing": "text_encoder"}),  # SD 2 has OpenCLIP's
        (
            put(UNET + "label_emb.0.0.weight", 1280, 2816),
            "model_incomplete",
            {"missing": "text_encoder, text_encoder_2"},
        ),
        (put(UNET + "joint_blocks.0.x_block.attn.qkv.weight", 8, 8), "model_other_family", {"found": "SD 3"}),
        (put("double_blocks.0.img_attn.qkv.weight", 8, 8), "model_other_family", {"found": "FLUX.1"}),
        (drop("first_stage_model."), "model_incomplete", {"missing": "vae"}),
        (drop("cond_stage_model."), "model_incomplete", {"missing": "text_encoder"}),
        (drop(UNET), "model_is_vae", {}),
        (put(TEXT + "embeddings.token_embedding.weight", 49_410, 64), "model_vocabulary", {"rows": 49_410}),
        (put(TEXT + "embeddings.token_embedding.weight", 49_408, 128), "model_other_family", {}),
        (put(TEXT + "embeddings.token_embedding.weight", 49_408, 65), "model_configs_needed", {}),
        (drop(UNET + "input_blocks.0.0"), "model_configs_needed", {}),
        (tag("modelspec.prediction_type", "sample"), "model_prediction", {"found": "sample"}),
        (tag("lorasmith.configs", "{"), "model_damaged", {"where": "lorasmith.configs"}),
        (tag("lorasmith.configs", '{"unet": {}, "vae": {}, "text_encoder": {}}'), "model_damaged", {}),
        (tag("lorasmith.configs", '{"unet": {}}'), "model_damaged", {"where": "lorasmith.configs"}),
    ],
)
def test_single_files_that_are_refused(narrow, tmp_path: Path, edit: Any, code: str, fields: dict[str, Any]) -> None:
    path = edited(narrow.single, tmp_path / "x.safetensors", edit)
    with pytest.raises(ModelError) as caught:
        recognize(path)
    assert caught.value.code == code
    assert caught.value.fields.items() >= fields.items()
    json.dumps(caught.value.fields)


def test_a_small_vocabulary_without_a_tokenizer(miniature, tmp_path: Path) -> None:
    def forget(shapes: dict[str, tuple[int, ...]], metadata: dict[str, str]) -> None:
        configs = json.loads(metadata["lorasmith.configs"])
        del configs["tokenizer"]
        metadata["lorasmith.configs"] = json.dumps(configs)

    with pytest.raises(ModelError, match="model_vocabulary"):
        recognize(edited(miniature.single, tmp_path / "x.safetensors", forget))


@pytest.mark.parametrize(
    ("change", "code", "fields"),
    [
        ("model_index.json", "model_incomplete", {"missing": "model_index.json"}),
        ("unet/config.json", "model_incomplete", {"missing": "unet/config.json"}),
        ("scheduler", "model_incomplete", {"missing": "scheduler/scheduler_config.json"}),
        ("tokenizer", "model_incomplete", {"missing": "tokenizer"}),
        (
            "vae/diffusion_pytorch_model.safetensors",
            "model_incomplete",
            {"missing": "vae/diffusion_pytorch_model.safetensors"},
        ),
        ("text_encoder/model.safetensors", "model_incomplete", {"missing": "text_encoder/model.safetensors"}),
    ],
)
def test_folders_with_a_part_missing(miniature, tmp_path: Path, change: str, code: str, fields: dict[str, Any]) -> None:
    folder = shutil.copytree(miniature.folder, tmp_path / "model")
    gone = folder / change
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(ModelError) as caught:
        recognize(folder)
    assert (caught.value.code, caught.value.fields | fields) == (code, caught.value.fields)


@pytest.mark.parametrize(
    ("file", "changes", "code", "found"),
    [
        ("model_index.json", {"_class_name": "LTXPipeline", "transformer": []}, "model_other_family", "LTX"),
        ("model_index.json", {"text_encoder_2": [], "_class_name": "SDXL"}, "model_other_family", "SDXL"),
        ("unet/config.json", {"in_channels": 9}, "model_inpainting", "SD 1.x inpainting"),
        ("unet/config.json", {"block_out_channels": 5}, "model_damaged", None),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "model_prediction", "sample"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "squaredcos_cap_v2"}, "model_prediction", None),
    ],
)  # fmt: skip
def test_folders_of_other_kinds(
    miniature, tmp_path: Path, file: str, changes: dict[str, Any], code: str, found: str | None
) -> None:
    folder = shutil.copytree(miniature.folder, tmp_path / "model")
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | changes))
    with pytest.raises(ModelError) as caught:
        recognize(folder)
    assert caught.value.code == code
    assert found is None or caught.value.fields["found"] == found
