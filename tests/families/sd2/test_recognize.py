"""SD 2 is recognized by headers, configs and one small tensor; what is like it and cannot be trained is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorasmith.errors import ModelError
from lorasmith.families.recognize import recognize
from lorasmith.families.sd2.layout import usual_config
from lorasmith.families.stored_tensors import examine_pickle
from lorasmith.families.weights import BaseWeights, NoiseRequest
from tests.families.tiny import UNET, edited, real_sd2_shapes, write_header

Shapes = dict[str, tuple[int, ...]]
Edit = Callable[[Shapes, dict[str, str]], None]
COMPONENTS = ("unet", "vae", "text_encoder")
LAST_BIAS = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"

# -- what is recognised ----------------------------------------------------------------------------


def test_a_folder_and_a_single_file_that_describes_itself(sd2) -> None:
    folder, single = recognize(sd2.folder), recognize(sd2.single)
    assert (folder.family, folder.layout, single.family, single.layout) == ("sd2", "diffusers", "sd2", "single_file")
    for weights in (folder, single):
        assert (weights.noise.prediction, weights.noise.source) == ("epsilon", "scheduler_config")
        assert (weights.resolution, weights.size_multiple, weights.max_clip_skip) == (64, 16, 2)
    assert {name: single.configs[name] for name in COMPONENTS} == {name: folder.configs[name] for name in COMPONENTS}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_header(tmp_path_factory.mktemp("real") / "512-base-ema.safetensors", real_sd2_shapes())


def test_the_real_model_is_what_our_configs_say(real: Path) -> None:
    weights = recognize(real)
    assert (weights.family, weights.denoiser_parameters, weights.size_multiple) == ("sd2", 865_910_724, 64)
    assert (weights.max_clip_skip, weights.resolution) == (23, 512)
    for component in COMPONENTS:
        expected = usual_config(component) | ({"projection_dim": 1024} if component == "text_encoder" else {})
        assert weights.configs[component] == expected


# -- what it predicts ------------------------------------------------------------------------------


def summary(weights: BaseWeights) -> tuple[str, str, int]:
    return weights.noise.prediction, weights.noise.source, weights.resolution


def test_weights_decide_where_no_mark_does(narrow_sd2, tmp_path: Path) -> None:
    """By the deviation of one bias, as in ComfyUI. The resolution follows."""
    tensors = load_file(narrow_sd2.single)
    for deviation, expected in ((0.05, ("epsilon", "weights", 512)), (0.15, ("v_prediction", "weights", 768))):
        bias = torch.ones_like(tensors[LAST_BIAS])
        bias[::2] = -1
        tensors[LAST_BIAS] = 0.5 + deviation * bias
        single, pickled = tmp_path / "x.safetensors", tmp_path / "x.ckpt"
        save_file(tensors, single)
        torch.save({"state_dict": tensors}, pickled)
        for weights in (recognize(single), examine_pickle(recognize(pickled))):
            assert (weights.family, *summary(weights)) == ("sd2", *expected)
            assert weights.configs["scheduler"]["prediction_type"] == expected[0]
            assert weights.configs["unet"]["sample_size"] == expected[2] // 8
    asked = recognize(single, asked=NoiseRequest("epsilon"))
    assert summary(asked) == ("epsilon", "asked", 512)


def marked(*keys: str) -> Edit:
    return lambda shapes, metadata: shapes.update(dict.fromkeys(keys, (0,)))


def tag(key: str, value: str) -> Edit:
    return lambda shapes, metadata: metadata.update({key: value})


@pytest.mark.parametrize(
    ("edit", "asked", "expected"),
    [
        (marked("v_pred"), "auto", ("v_prediction", "header_key", 768)),
        (tag("modelspec.prediction_type", "v"), "auto", ("v_prediction", "modelspec", 768)),
        (tag("modelspec.prediction_type", "epsilon"), "auto", ("epsilon", "modelspec", 512)),
        (marked(), "v_prediction", ("v_prediction", "asked", 768)),
    ],
)
def test_marks_come_before_the_weights(
    real: Path, tmp_path: Path, edit: Edit, asked: Any, expected: tuple[str, str, int]
) -> None:
    assert summary(recognize(edited(real, tmp_path / "x.safetensors", edit), asked=NoiseRequest(asked))) == expected


def test_the_yaml_beside_a_file_comes_before_the_weights(real: Path, tmp_path: Path) -> None:
    path = tmp_path / "768.safetensors"
    path.hardlink_to(real)
    path.with_suffix(".yaml").write_text('model:\n  params:\n    parameterization: "v"\n')
    assert summary(recognize(path)) == ("v_prediction", "yaml", 768)


# -- what is refused -------------------------------------------------------------------------------


def put(name: str, *shape: int) -> Edit:
    return lambda shapes, metadata: shapes.update({name: shape})


def drop(prefix: str) -> Edit:
    def edit(shapes: Shapes, metadata: dict[str, str]) -> None:
        for name in [name for name in shapes if name.startswith(prefix)]:
            del shapes[name]

    return edit


FIRST = f"{UNET}input_blocks.0.0.weight"


@pytest.mark.parametrize(
    ("edit", "code", "fields"),
    [
        (put(FIRST, 320, 9, 3, 3), "model_inpainting", {"found": "SD 2 inpainting"}),
        (put(FIRST, 320, 5, 3, 3), "model_takes_depth", {"found": "SD 2 depth"}),
        (put(FIRST, 320, 7, 3, 3), "model_upscales_pictures", {"found": "SD 2 upscaler"}),
        (put(f"{UNET}label_emb.0.0.weight", 1280, 2048), "model_unclip", {"found": "SD 2 unCLIP"}),
        (drop("first_stage_model."), "model_incomplete", {"missing": "vae"}),
        (drop("cond_stage_model."), "model_incomplete", {"missing": "text_encoder"}),
        (put("cond_stage_model.model.transformer.resblocks.0.attn.in_proj_bias", 3073), "model_damaged", {}),
        (put("cond_stage_model.model.token_embedding.weight", 49_410, 1024), "model_vocabulary", {"rows": 49_410}),
        (put("cond_stage_model.model.token_embedding.weight", 49_408, 1088), "model_other_family", {}),
    ],
)
def test_what_cannot_be_trained_is_named(
    real: Path, tmp_path: Path, edit: Edit, code: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(ModelError) as caught:
        recognize(edited(real, tmp_path / "x.safetensors", edit))
    assert caught.value.code == code
    assert fields.items() <= caught.value.fields.items()


@pytest.mark.parametrize(
    ("changes", "code", "found"),
    [
        ({"in_channels": 9}, "model_inpainting", "SD 2 inpainting"),
        ({"in_channels": 5}, "model_takes_depth", "SD 2 depth"),
        ({"class_embed_type": "projection"}, "model_unclip", "SD 2 unCLIP"),
    ],
)
def test_folders_that_cannot_be_trained(sd2, tmp_path: Path, changes: dict[str, Any], code: str, found: str) -> None:
    folder = Path(shutil.copytree(sd2.folder, tmp_path / "model"))
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(ModelError) as caught:
        recognize(folder)
    assert (caught.value.code, caught.value.fields["found"]) == (code, found)
