"""Base models that are trouble: refused by name, in bounded time and memory, and nothing is written."""

import json
import os
import random
import shutil
import time
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from lorasmith.errors import ModelError
from lorasmith.families import load_family
from lorasmith.families.recognize import recognize
from lorasmith.families.stored_tensors import load_pickle, read_component
from tests.abuse.model_files import ARCHIVES, HEADERS, MIB, PICKLES, truncations
from tests.abuse.refused import refused
from tests.end_to_end.refusals import Desk

FILES = {**HEADERS, **ARCHIVES}
MAX_SECONDS = 2.0
MAX_MIB = 160


def base(path: Path) -> dict[tuple[str, str], Any]:
    return {("model", "base_model"): str(path)}


@pytest.mark.parametrize("what", FILES)
def test_a_file_is_refused_before_anything_is_written(desk: Desk, bad: Path, what: str) -> None:
    make, code = FILES[what]
    (bad / "x.safetensors").write_bytes(make())
    tracemalloc.start()
    began = time.process_time()
    error = refused(desk.folder, lambda: desk.new("fresh", base(bad / "x.safetensors")), code)
    seconds, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (seconds < MAX_SECONDS, peak < MAX_MIB * MIB) == (True, True), (seconds, peak / MIB)
    assert len(json.dumps(error.fields)) < 1000


@pytest.mark.parametrize("what", PICKLES)
def test_a_pickle_is_refused_by_whoever_reads_it(bad: Path, what: str) -> None:
    make, code = PICKLES[what]
    path = bad / "x.ckpt"
    path.write_bytes(make())
    refused(bad, lambda: load_family(recognize(path)), code)


@pytest.mark.parametrize("name", ["pipe", "zero", "plug"])
def test_what_is_no_file(desk: Desk, bad: Path, name: str) -> None:
    os.mkfifo(bad / "pipe")
    (bad / "zero").symlink_to("/dev/zero")
    (bad / "plug").symlink_to("/dev/null")
    refused(desk.folder, lambda: desk.new("fresh", base(bad / name)), "model_irregular")


@pytest.mark.parametrize("name", ["unet/config.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json"])
def test_a_folder_with_a_pipe_inside(desk: Desk, bad: Path, base_model: Path, name: str) -> None:
    folder = shutil.copytree(base_model, bad / "model")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    refused(desk.folder, lambda: desk.new("fresh", base(folder)), "model_irregular")


@pytest.mark.parametrize("name", ["unet/config.json", "tokenizer/vocab.json", "model_index.json"])
def test_a_folder_with_a_giant_inside(desk: Desk, bad: Path, base_model: Path, name: str) -> None:
    folder = shutil.copytree(base_model, bad / "model")
    with (folder / name).open("wb") as file:
        file.truncate(1 << 36)
    refused(desk.folder, lambda: desk.new("fresh", base(folder)), "model_damaged")


CONFIGS: list[tuple[str, dict[str, Any]]] = [
    ("unet/config.json", {"sample_size": 10**12}),
    ("unet/config.json", {"sample_size": float("inf")}),
    ("unet/config.json", {"sample_size": 0}),
    ("unet/config.json", {"block_out_channels": [32] * 1000}),
    ("unet/config.json", {"block_out_channels": "abc"}),
    ("unet/config.json", {"layers_per_block": 10**9}),
    ("unet/config.json", {"cross_attention_dim": 10**12}),
    ("vae/config.json", {"block_out_channels": []}),
    ("vae/config.json", {"scaling_factor": 0}),
    ("vae/config.json", {"scaling_factor": float("nan")}),
    ("text_encoder/config.json", {"max_position_embeddings": 10**12}),
    ("text_encoder/config.json", {"num_hidden_layers": 10**9}),
    ("text_encoder/config.json", {"num_hidden_layers": "two"}),
    ("text_encoder/config.json", {"vocab_size": -1}),
    ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**12}),
    ("scheduler/scheduler_config.json", {"beta_end": float("nan")}),
    ("scheduler/scheduler_config.json", {"beta_start": "x"}),
]


@pytest.mark.parametrize(("file", "change"), CONFIGS, ids=[f"{file} {change}" for file, change in CONFIGS])
def test_a_config_that_asks_for_the_moon(
    desk: Desk, bad: Path, base_model: Path, file: str, change: dict[str, Any]
) -> None:
    folder = shutil.copytree(base_model, bad / "model")
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | change))
    refused(desk.folder, lambda: desk.new("fresh", base(folder)), "model_damaged")


@pytest.mark.parametrize(
    "change", [{"num_hidden_layers": None}, {"attention_head_dim": "x"}, {"down_block_types": ["os"]}]
)
def test_a_config_that_builds_nothing(bad: Path, base_model: Path, change: dict[str, Any]) -> None:
    """What no check foresees is what the library's constructor says: named too, by the worker."""
    folder = shutil.copytree(base_model, bad / "model")
    component = "text_encoder" if "num_hidden_layers" in change else "unet"
    file = folder / component / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))

    def build() -> None:
        family = load_family(recognize(folder))
        cpu = torch.device("cpu")
        family.load_models(trained=["text_encoder"], dtype=torch.float32, to=cpu)

    with pytest.raises(ModelError) as caught:
        build()
    assert caught.value.code in ("model_damaged", "model_layers")


@pytest.mark.parametrize("places", ["../../../etc/passwd", "/etc/passwd", "a\0b", "x" * 5000, "\ud800"])
def test_a_list_of_parts_that_leads_out(desk: Desk, bad: Path, base_model: Path, places: str) -> None:
    folder = shutil.copytree(base_model, bad / "model")
    whole = folder / "unet" / "diffusion_pytorch_model.safetensors"
    whole.unlink()
    whole.with_suffix(".safetensors.index.json").write_text(json.dumps({"weight_map": {"x": places}}))
    refused(desk.folder, lambda: desk.new("fresh", base(folder)), "model_incomplete")


def test_truncated_anywhere(bad: Path, single: Path, pickled: Path) -> None:
    for whole in (single, pickled):
        for number, data in enumerate(truncations(whole, 24)):
            path = bad / f"{number}{whole.suffix}"
            path.write_bytes(data)
            with pytest.raises(ModelError) as caught:
                load_family(recognize(path))
            assert caught.value.code in ("model_truncated", "model_damaged", "model_unknown"), (whole.suffix, len(data))
            path.unlink()


def test_flipped_anywhere_it_is_refused_or_read(bad: Path, pickled: Path) -> None:
    """Where the pickle and the table of contents lie: a named error, or a model; nothing else."""
    data = pickled.read_bytes()
    pickle_at = data.index(b"data.pkl")
    chosen = random.Random(6)
    places = [
        *(pickle_at + chosen.randrange(20_000) for _ in range(25)),
        *(chosen.randrange(1, 2000) for _ in range(5)),
    ]
    places += [len(data) - 1 - chosen.randrange(20_000) for _ in range(25)]
    path = bad / "x.ckpt"
    path.write_bytes(data)
    for place in places:
        with path.open("r+b") as file:
            file.seek(place)
            file.write(bytes([data[place] ^ (1 << chosen.randrange(8))]))
        try:
            assert isinstance(load_pickle(path) if recognize(path).layout == "pickle" else {}, dict)
        except ModelError as error:
            assert error.code.startswith("model_"), place
        with path.open("r+b") as file:
            file.seek(place)
            file.write(data[place : place + 1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_weights_that_are_no_numbers(bad: Path, single: Path, value: float, component: str) -> None:
    prefix = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text_encoder": "cond_stage_model."}
    tensors = safetensors.torch.load_file(single)
    name = max(one for one in tensors if one.startswith(prefix[component]) and tensors[one].is_floating_point())
    tensors[name].view(-1)[-1] = value
    with safetensors.safe_open(single, "pt") as file:
        metadata = file.metadata()
    safetensors.torch.save_file(tensors, bad / "x.safetensors", metadata)
    weights = recognize(bad / "x.safetensors")
    refused(bad, lambda: read_component(weights, component, torch.float32), "model_not_finite")
    others = {"unet": "vae", "vae": "text_encoder", "text_encoder": "unet"}
    assert read_component(weights, others[component], torch.float32)


def test_weights_that_are_no_numbers_end_the_start(desk: Desk, bad: Path, base_model: Path) -> None:
    folder = shutil.copytree(base_model, bad / "model")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    tensors["conv_out.bias"][0] = float("nan")
    safetensors.torch.save_file(tensors, file)
    before = desk.refusal(lambda: desk.new("fresh", base(folder)))
    assert before[:2] == ("model_not_finite", 2)
    assert not (desk.folder / "fresh").exists()


def test_weights_of_another_type(bad: Path, single: Path) -> None:
    """Whole numbers where there should be fractions are read; the shapes decide."""
    for dtype in (torch.int8, torch.bool, torch.float64, torch.bfloat16):
        tensors = {name: tensor.to(dtype) for name, tensor in safetensors.torch.load_file(single).items()}
        with safetensors.safe_open(single, "pt") as file:
            metadata = file.metadata()
        safetensors.torch.save_file(tensors, bad / "x.safetensors", metadata)
        weights = recognize(bad / "x.safetensors")
        read = partial(read_component, weights, "unet", torch.float32)
        if dtype in (torch.int8, torch.bool):
            refused(bad, read, "model_damaged")
        else:
            assert {tensor.dtype for tensor in read().values()} == {torch.float32}
