"""Files of a base model that consists of several are found once, at the start of a run, and recorded."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorasmith.config import Request, RunConfig
from lorasmith.demo.miniature import draw_pictures
from lorasmith.errors import ModelError
from lorasmith.families.recognize import recognize
from lorasmith.families.weights import PartFiles
from lorasmith.runtime.model_parts import check_form, check_same_family, with_parts
from lorasmith.runtime.preflight import new_run
from tests.families.krea2.miniature import make_model, make_split


def test_files_that_are_found_are_recorded_and_named(tmp_path: Path) -> None:
    model = make_split(make_model(tmp_path / "model"), tmp_path / "models")
    text, vae = (
        tmp_path / "models" / name
        for name in ("text_encoders/qwen3vl_4b.safetensors", "vae/qwen_image_vae.safetensors")
    )
    config, notices = with_parts(RunConfig(), recognize(model), tmp_path)
    assert (config.model.vae, config.model.text_encoder) == (str(vae), (str(text),))
    assert notices == (
        ("part_beside", {"option": "vae", "path": str(vae)}),
        ("part_beside", {"option": "text-encoder", "path": str(text)}),
    )
    again, notices = with_parts(config, recognize(model, parts=PartFiles(vae, (text,))), tmp_path)
    assert again == config and notices == ()
    asked = RunConfig().with_values({("model", "text_encoder"): ("models/text_encoders/qwen3vl_4b.safetensors",)})
    again, notices = with_parts(asked, recognize(model, parts=PartFiles(text_encoders=(text,))), tmp_path)
    assert again == config and [fields["option"] for _, fields in notices] == ["vae"]


def test_a_folder_has_all_in_itself(tmp_path: Path) -> None:
    config, notices = with_parts(RunConfig(), recognize(make_model(tmp_path / "model")), tmp_path)
    assert config == RunConfig() and notices == ()


def test_a_form_that_nothing_tells_has_to_be_named(tmp_path: Path) -> None:
    model = make_split(make_model(tmp_path / "model"), tmp_path / "models", name="mine")
    with pytest.raises(ModelError, match="model_form_unnamed") as caught:
        check_form(recognize(model))
    assert caught.value.fields["form"] == "Krea 2 Raw"
    check_form(recognize(model, form="base"))


def test_a_run_keeps_its_family(tmp_path: Path) -> None:
    weights = recognize(make_model(tmp_path / "model"))
    check_same_family(weights, "krea2")
    with pytest.raises(ModelError, match="base_model_other_family") as caught:
        check_same_family(weights, "flux2_klein")
    assert caught.value.fields == {"found": "Krea 2", "expected": "FLUX.2 klein"}


@pytest.mark.parametrize(("field", "value"), [("weighted_captions", True), ("clip_skip", 2)])
def test_settings_of_clip_are_refused_before_a_worker_starts(tmp_path: Path, field: str, value: object) -> None:
    make_model(tmp_path / "model")
    draw_pictures(tmp_path / "lora_train_set", 1, seed=1, size=(64, 64))
    values = {("model", "base_model"): "model", ("model", field): value}
    with pytest.raises(ModelError, match="model_without_clip") as caught:
        new_run(values, Request(steps=1), state_prefix="state", here=tmp_path)
    assert caught.value.fields == {"option": field.replace("_", "-")}


def test_weights_in_eight_bits_are_used_and_reported(tmp_path: Path) -> None:
    model = make_split(make_model(tmp_path / "model"), tmp_path / "models")
    text = tmp_path / "models" / "text_encoders" / "qwen3vl_4b.safetensors"
    _in_fp8(text)
    _, notices = with_parts(RunConfig(), recognize(model), tmp_path)
    assert [fields for code, fields in notices if code == "weights_in_fp8"] == [{"path": str(text)}]
    folder = make_model(tmp_path / "other")
    assert with_parts(RunConfig(), recognize(folder), tmp_path)[1] == ()
    _in_fp8(next((folder / "text_encoder").glob("*.safetensors")))
    expected = ("weights_in_fp8", {"path": str(folder / "text_encoder")})
    assert with_parts(RunConfig(), recognize(folder), tmp_path)[1] == (expected,)


def _in_fp8(path: Path) -> None:
    tensors = load_file(path).items()
    save_file({name: one.to(torch.float8_e4m3fn) if one.ndim > 1 else one for name, one in tensors}, path)
