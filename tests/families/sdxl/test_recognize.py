"""SDXL is recognized by headers and configs alone; what is like it and cannot be trained is named with the reason."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorasmith.errors import ModelError
from lorasmith.families.recognize import recognize
from lorasmith.families.sdxl.layout import usual_config
from lorasmith.families.weights import NoiseRequest
from tests.families.tiny import UNET, edited, real_sdxl_shapes, write_header

Shapes = dict[str, tuple[int, ...]]
Edit = Callable[[Shapes, dict[str, str]], None]
COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2")

# -- what is recognised ----------------------------------------------------------------------------


def test_a_folder_and_a_single_file_that_describes_itself(sdxl) -> None:
    folder, single = recognize(sdxl.folder), recognize(sdxl.single)
    assert (folder.family, folder.layout, single.family, single.layout) == ("sdxl", "diffusers", "sdxl", "single_file")
    for weights in (folder, single):
        assert (weights.noise.prediction, weights.noise.source) == ("epsilon", "scheduler_config")
        assert (weights.resolution, weights.size_multiple, weights.bucket_step) == (64, 32, 64)
        assert weights.max_clip_skip == 2
        assert (weights.denoiser_parameters, weights.distilled) == (3_356_292, "")
    assert {name: single.configs[name] for name in COMPONENTS} == {name: folder.configs[name] for name in COMPONENTS}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_header(tmp_path_factory.mktemp("real") / "sd_xl_base_1.0.safetensors", real_sdxl_shapes())


def test_the_real_model_is_what_our_configs_say(real: Path) -> None:
    weights = recognize(real)
    assert (weights.denoiser_parameters, weights.resolution, weights.bucket_step) == (2_567_463_684, 1024, 64)
    assert (weights.noise.prediction, weights.noise.source, weights.max_clip_skip) == ("epsilon", "default", 12)
    for component in COMPONENTS:
        assert weights.configs[component] == usual_config(component)


def marked(*keys: str) -> Edit:
    return lambda shapes, metadata: shapes.update(dict.fromkeys(keys, (0,)))


def tag(key: str, value: str) -> Edit:
    return lambda shapes, metadata: metadata.update({key: value})


@pytest.mark.parametrize(
    ("edit", "asked", "noise"),
    [
        (marked("v_pred"), "auto", ("v_prediction", False, "header_key")),
        (marked("v_pred", "ztsnr"), "auto", ("v_prediction", True, "header_key")),
        (marked(), "v_prediction", ("v_prediction", False, "asked")),
        (marked("v_pred"), "epsilon", ("epsilon", False, "asked")),
        (tag("modelspec.prediction_type", "v"), "auto", ("v_prediction", False, "modelspec")),
    ],
)
def test_what_a_single_file_predicts(
    real: Path, tmp_path: Path, edit: Edit, asked: Any, noise: tuple[str, bool, str]
) -> None:
    found = recognize(edited(real, tmp_path / "x.safetensors", edit), asked=NoiseRequest(asked)).noise
    assert (found.prediction, found.zero_terminal_snr, found.source) == noise


def test_a_distilled_model_is_trained_on_and_named(sdxl, tmp_path: Path) -> None:
    turbo = Path(shutil.copy(sdxl.single, tmp_path / "sd_xl_turbo_1.0.safetensors"))
    assert (recognize(turbo).family, recognize(turbo).distilled) == ("sdxl", "Turbo")


# -- what is refused -------------------------------------------------------------------------------


def drop(*prefixes: str) -> Edit:
    def edit(shapes: Shapes, metadata: dict[str, str]) -> None:
        for name in [name for name in shapes if name.startswith(prefixes)]:
            del shapes[name]

    return edit


def put(name: str, *shape: int) -> Edit:
    return lambda shapes, metadata: shapes.update({name: shape})


def refiner(shapes: Shapes, metadata: dict[str, str]) -> None:
    for name in [name for name in shapes if name.startswith("conditioner.")]:
        shape = shapes.pop(name)
        if name.startswith("conditioner.embedders.1.model."):
            shapes[name.replace("embedders.1", "embedders.0")] = shape
    shapes[UNET + "label_emb.0.0.weight"] = (1536, 2560)


def a_shallower_middle(shapes: Shapes, metadata: dict[str, str]) -> None:
    drop(UNET + "middle_block.1.transformer_blocks.9.")(shapes, metadata)


OPEN_CLIP = "conditioner.embedders.1.model."


@pytest.mark.parametrize(
    ("edit", "code", "fields"),
    [
        (refiner, "model_refiner", {"found": "SDXL refiner"}),
        (put(UNET + "input_blocks.0.0.weight", 320, 9, 3, 3), "model_inpainting", {"found": "SDXL inpainting"}),
        (
            put(UNET + "input_blocks.0.0.weight", 320, 8, 3, 3),
            "model_edits_pictures",
            {"found": "SDXL InstructPix2Pix"},
        ),
        (put(UNET + "input_blocks.0.0.weight", 320, 5, 3, 3), "model_other_family", {}),
        (marked("edm_mean", "edm_std"), "model_edm", {"found": "Playground 2.5"}),
        (marked("v_pred", "edm_vpred.sigma_max"), "model_edm", {"found": "SDXL with EDM noise"}),
        (drop("first_stage_model."), "model_incomplete", {"missing": "vae"}),
        (drop("conditioner.embedders.0."), "model_incomplete", {"missing": "text_encoder"}),
        (drop("conditioner.embedders.1."), "model_incomplete", {"missing": "text_encoder_2"}),
        (
            drop("conditioner.", "first_stage_model."),
            "model_incomplete",
            {"missing": "vae, text_encoder, text_encoder_2"},
        ),
        (drop(UNET), "model_incomplete", {"missing": "unet"}),
        (a_shallower_middle, "model_configs_needed", {}),
        (put(OPEN_CLIP + "transformer.resblocks.0.attn.in_proj_weight", 3841, 1280), "model_damaged", {}),
        (put(OPEN_CLIP + "token_embedding.weight", 49_410, 1280), "model_vocabulary", {"rows": 49_410}),
        (put(OPEN_CLIP + "token_embedding.weight", 49_408, 1024), "model_other_family", {}),
        (put("lora_unet_input_blocks_4_1_proj_in.lora_down.weight", 4, 8), "model_is_lora", {}),
    ],
)
def test_single_files_that_are_refused(
    real: Path, tmp_path: Path, edit: Edit, code: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(ModelError) as caught:
        recognize(edited(real, tmp_path / "x.safetensors", edit))
    assert caught.value.code == code
    assert caught.value.fields.items() >= fields.items()
    json.dumps(caught.value.fields)


@pytest.mark.parametrize(
    ("gone", "missing"),
    [
        ("text_encoder_2/model.safetensors", "text_encoder_2/model.safetensors"),
        ("text_encoder_2", "text_encoder_2/config.json"),
        ("tokenizer_2", "tokenizer_2"),
        ("unet/config.json", "unet/config.json"),
        ("vae", "vae/config.json"),
    ],
)
def test_folders_with_a_part_missing(sdxl, tmp_path: Path, gone: str, missing: str) -> None:
    folder = shutil.copytree(sdxl.folder, tmp_path / "model")
    shutil.rmtree(folder / gone) if (folder / gone).is_dir() else (folder / gone).unlink()
    with pytest.raises(ModelError) as caught:
        recognize(folder)
    assert (caught.value.code, caught.value.fields["missing"]) == ("model_incomplete", missing)


INDEX, SCHEDULER = "model_index.json", "scheduler/scheduler_config.json"


@pytest.mark.parametrize(
    ("file", "changes", "code", "found"),
    [
        (
            INDEX,
            {"_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder": [None, None]},
            "model_refiner",
            "SDXL refiner",
        ),
        ("unet/config.json", {"in_channels": 9}, "model_inpainting", "SDXL inpainting"),
        ("vae/config.json", {"latents_mean": [0, 0, 0, 0]}, "model_edm", "Playground 2.5"),
        (SCHEDULER, {"_class_name": "EDMEulerScheduler"}, "model_edm", "SDXL with EDM noise"),
        (INDEX, {"_class_name": "KolorsPipeline"}, "model_other_family", "KolorsPipeline"),
        (INDEX, {"_class_name": "LTXPipeline", "transformer": []}, "model_other_family", "LTX"),
        ("unet/config.json", {"addition_embed_type": "image"}, "model_other_family", "UNet with image conditions"),
        (SCHEDULER, {"prediction_type": "sample"}, "model_prediction", "sample"),
    ],
)
def test_folders_of_other_kinds(
    sdxl, tmp_path: Path, file: str, changes: dict[str, Any], code: str, found: str
) -> None:
    folder = shutil.copytree(sdxl.folder, tmp_path / "model")
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | changes))
    with pytest.raises(ModelError) as caught:
        recognize(folder)
    assert (caught.value.code, caught.value.fields["found"]) == (code, found)


def test_a_folder_that_predicts_velocity_to_the_end(sdxl, tmp_path: Path) -> None:
    folder = shutil.copytree(sdxl.folder, tmp_path / "model")
    config = json.loads((folder / SCHEDULER).read_text())
    config |= {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    (folder / SCHEDULER).write_text(json.dumps(config))
    noise = recognize(folder).noise
    assert (noise.prediction, noise.zero_terminal_snr, noise.source) == ("v_prediction", True, "scheduler_config")


@pytest.mark.parametrize("is_archive", [True, False])
def test_a_pickle_is_taken_for_sdxl_before_it_is_examined(
    sdxl, miniature, tmp_path: Path, is_archive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pictures are cut before it is loaded; nothing in it is run for that."""
    import torch

    found = []
    for made in (sdxl, miniature):
        content, path = torch.load(made.ckpt, weights_only=True), tmp_path / f"{made.folder.parent.name}.ckpt"
        torch.save(content, path, _use_new_zipfile_serialization=is_archive)
        with monkeypatch.context() as patch:
            patch.setattr("pickle.Unpickler", None)
            patch.setattr("torch.load", None)
            weights = recognize(path)
        found.append((weights.family, weights.layout, weights.resolution))
    assert found == [("", "pickle", 1024), ("", "pickle", 512)]
