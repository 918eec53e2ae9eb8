"""What of Krea 2 stands for all families of flow matching: models in several files, and files that are not kept.
`test_flow_families.py` has what each of them must do."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from lorasmith.config import load_run_toml
from lorasmith.errors import ExitCode
from lorasmith.families.identity import file_sha256
from lorasmith.lora_files import readers
from lorasmith.runs.events import RunStopped, Warned
from tests.end_to_end.test_flow_families import SETTINGS
from tests.end_to_end.workshop import Workshop
from tests.families.krea2.miniature import make_model, make_split

MakeWorkshop = Callable[[str], Workshop]


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("krea2") / "model")


def test_comfyuis_files_train_to_the_bytes_of_the_folder(
    make_workshop: MakeWorkshop, base_model: Path, tmp_path: Path
) -> None:
    """Every file is found and recorded, so the run continues though one more lies there later; but not with another."""
    models = tmp_path / "models"
    file = make_split(base_model, models)
    whole, split = make_workshop("whole"), make_workshop("split")
    assert whole.new(2, SETTINGS).exit_code == ExitCode.FINISHED
    start = {**SETTINGS, ("model", "base_model"): str(file)}
    beside = [fields["option"] for code, fields in split.start_new(2, start).warnings if code == "part_beside"]
    assert beside == ["vae", "text-encoder"]
    assert split.new(2, start, stop_after=1).exit_code == ExitCode.STOPPED
    vae = models / "vae" / "qwen_image_vae.safetensors"
    shutil.copy(vae, models / "vae" / "another qwen.safetensors")
    assert split.go_on(1).exit_code == ExitCode.FINISHED
    assert split.losses() == whole.losses() and split.digest() == whole.digest()
    model = load_run_toml(split.run.config).model
    assert (model.vae, model.vae_sha256) == (str(vae), file_sha256(vae))
    assert model.text_encoder_sha256 == file_sha256(models / "text_encoders" / "qwen3vl_4b.safetensors")
    text = models / "text_encoders" / "qwen3vl_4b.safetensors"
    tensors = load_file(text)
    save_file({**tensors, "model.language_model.norm.weight": tensors["model.language_model.norm.weight"] * 2}, text)
    refused = split.go_on(1)
    assert refused.exit_code == ExitCode.BAD_INPUT
    assert [event.code for event in refused.of(RunStopped)] == ["text_encoder_changed"]


def test_a_second_file_that_the_first_is_already(workshop: Workshop) -> None:
    ran = workshop.new(1, {**SETTINGS, ("export", "format"): "comfyui"})
    assert [event.fields for event in ran.of(Warned) if event.code == "export_format_same"] == [{"format": "comfyui"}]
    assert not workshop.run.export("last-comfyui").exists()


def test_a_file_that_a_program_would_not_read_whole_is_not_kept(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "OF_COMFYUI_ALWAYS", frozenset({("lora_unet_", "N")}))
    assert workshop.new(1, SETTINGS).exit_code not in (ExitCode.FINISHED, ExitCode.BAD_INPUT)
    stopped = [event for event in workshop.events() if isinstance(event, RunStopped)]
    assert stopped[-1].code == "export_invalid" and stopped[-1].fields["reason"] == "unread"
    assert not workshop.run.export("last").exists()
