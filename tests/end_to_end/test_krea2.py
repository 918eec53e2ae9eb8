"""Krea 2 from pictures to a file that diffusers reads whole, and continued to the same bytes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lorasmith.adapters.lora import DOWN, UP
from lorasmith.config import ExportConfig, load_run_toml
from lorasmith.errors import ExitCode
from lorasmith.families.identity import file_sha256
from lorasmith.lora_files import readers
from lorasmith.lora_tools.inspection import inspect_lora
from lorasmith.runs.events import AdapterExported, CacheProgress, Evaluated, RunStarted, RunStopped, Warned
from lorasmith.runs.naming import FileNames
from tests.end_to_end.workshop import Values, Workshop
from tests.families.krea2.miniature import make_model, make_split

MakeWorkshop = Callable[[str], Workshop]
SETTINGS: Values = {
    ("dataset", "resolution"): 64,
    ("adapter", "rank"): 4,
    ("adapter", "alpha"): 2.0,
    ("optimizer", "lr"): 1e-2,
    ("training", "batch_size"): 2,
    ("evaluation", "examples"): 1,
    ("evaluation", "sample_prompts"): ("a red ring",),
    ("export", "save_precision"): "fp32",
}


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("krea2") / "model")


@pytest.mark.parametrize("precision", [pytest.param("fp32", marks=pytest.mark.ci), "bf16"])
def test_it_trains_and_continues_to_the_same_bytes(make_workshop: MakeWorkshop, precision: str) -> None:
    values: dict[tuple[str, str], Any] = {**SETTINGS, ("model", "precision"): precision, ("noise", "min_timestep"): 200}
    if precision == "bf16":
        values |= {("noise", "density"): "mode", ("noise", "shift"): 3.0, ("loss", "flow_weighting"): "cosmap"}
    straight, pieces = make_workshop("straight"), make_workshop("pieces")
    whole = straight.new(3, {**values, ("evaluation", "every"): 3})
    assert whole.exit_code == ExitCode.FINISHED
    assert pieces.new(3, values, stop_after=1).exit_code == ExitCode.STOPPED
    resumed = pieces.go_on(2)
    assert resumed.exit_code == ExitCode.FINISHED and resumed.of(CacheProgress) == []
    assert pieces.losses() == straight.losses() and pieces.digest() == straight.digest()
    assert [sum(event.noise_levels[:4]) for event in whole.of(RunStarted)] == [0]  # --min-timestep 200
    evaluated = [event for event in whole.of(Evaluated) if not event.is_control]
    assert evaluated and all(event.validation is not None and event.samples for event in evaluated)


def test_comfyuis_files_train_to_the_bytes_of_the_folder(
    make_workshop: MakeWorkshop, base_model: Path, tmp_path: Path
) -> None:
    """Every file is found and recorded, so the run continues though one more lies there later; but not with another."""
    models = tmp_path / "models"
    file = make_split(base_model, models)
    values: Values = {**SETTINGS, ("evaluation", "sample_prompts"): ()}
    whole, split = make_workshop("whole"), make_workshop("split")
    assert whole.new(3, values).exit_code == ExitCode.FINISHED
    start = {**values, ("model", "base_model"): str(file)}
    beside = [fields["option"] for code, fields in split.start_new(3, start).warnings if code == "part_beside"]
    assert beside == ["vae", "text-encoder"]
    assert split.new(3, start, stop_after=1).exit_code == ExitCode.STOPPED
    vae = models / "vae" / "qwen_image_vae.safetensors"
    shutil.copy(vae, models / "vae" / "another qwen.safetensors")
    assert split.go_on(2).exit_code == ExitCode.FINISHED
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


def test_diffusers_applies_every_layer_of_the_file_as_trained(workshop: Workshop, base_model: Path) -> None:
    """Alpha is half the rank here, and the file has no alphas: readers that look for them elsewhere find none."""
    from diffusers import Krea2Transformer2DModel
    from diffusers.loaders import Krea2LoraLoaderMixin

    assert workshop.new(2, SETTINGS).exit_code == ExitCode.FINISHED
    path = workshop.run.export("last")
    trained, stored = workshop.adapter(), load_file(path)
    assert len(stored) == len(trained) == 2 * 2 * 8
    assert {key.rpartition(".lora_")[2] for key in stored} == {"A.weight", "B.weight"}
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["ss_network_alpha"] == "4.0" and metadata["ss_network_dim"] == "4"
    assert "lora_adapter_metadata" not in metadata and "modelspec.prediction_type" not in metadata
    model: Any = Krea2Transformer2DModel.from_pretrained(base_model / "transformer")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = Krea2LoraLoaderMixin.lora_state_dict(str(path))
    Krea2LoraLoaderMixin.load_lora_into_transformer(tensors, model, metadata=None)
    model.fuse_lora()
    model.unload_lora()
    after = model.state_dict()
    targets = {name.removesuffix(f".{suffix}") for name in trained for suffix in (DOWN, UP) if name.endswith(suffix)}
    assert len(targets) == 16
    for name, tensor in before.items():
        target = f"denoiser.{name.removesuffix('.weight')}"
        change = after[name] - tensor
        if target not in targets:
            assert not change.any(), name
            continue
        expected = 2.0 / 4 * trained[f"{target}.{UP}"] @ trained[f"{target}.{DOWN}"]
        assert expected.any() and torch.allclose(change, expected, atol=1e-6), name


@pytest.mark.parametrize("naming", ["own", "diffusers"])
def test_a_file_is_where_another_run_starts(make_workshop: MakeWorkshop, tmp_path: Path, naming: str) -> None:
    first, second = make_workshop("first"), make_workshop("second")
    assert first.new(2, SETTINGS).exit_code == ExitCode.FINISHED
    path = first.run.export("last")
    if naming == "diffusers":
        from diffusers.loaders import Krea2LoraLoaderMixin

        tensors = Krea2LoraLoaderMixin.lora_state_dict(str(path))
        path = tmp_path / "theirs.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    values: Values = {**SETTINGS, ("adapter", "init_from"): str(path), ("optimizer", "lr"): 1e-12}
    assert second.new(1, values).exit_code == ExitCode.FINISHED
    before, after = load_file(first.run.export("last")), load_file(second.run.export("last"))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


@pytest.mark.parametrize("form", ["kohya", "diffusers"])
def test_a_second_file_is_there_at_the_end(make_workshop: MakeWorkshop, form: str) -> None:
    """With the same change under other names: a run that starts from it has the first file's tensors."""
    first, second = make_workshop("first"), make_workshop("second")
    asked: Values = {**SETTINGS, ("export", "format"): form, ("cadence", "save_every"): 1}
    ran = first.new(2, asked)
    names = FileNames(first.run, ExportConfig(format=form))  # type: ignore[arg-type]
    assert ran.exit_code == ExitCode.FINISHED and names.other is not None
    exported = [(event.step, event.path) for event in ran.of(AdapterExported)]
    assert exported[-2:] == [(2, f"last-{form}.safetensors"), (2, "last.safetensors")] and len(exported) == 4
    assert {key.partition(".")[0] for key in load_file(names.other)} != {"diffusion_model"}
    assert inspect_lora(names.other).file.family == "krea2"
    names.other.unlink()  # by somebody: it is made again
    assert first.go_on(None).exit_code == ExitCode.FINISHED and names.other.exists()
    values: Values = {**SETTINGS, ("adapter", "init_from"): str(names.other), ("optimizer", "lr"): 1e-12}
    assert second.new(1, values).exit_code == ExitCode.FINISHED
    before, after = load_file(names.last), load_file(second.run.export("last"))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


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
