"""LoRA files to start from that are trouble: told by their header at once, or when they are loaded; never a crash."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from lorasmith.errors import ModelError
from lorasmith.exporting.names import from_file
from tests.abuse.model_files import ARCHIVES, HEADERS, pickled, truncations
from tests.abuse.refused import refused
from tests.end_to_end.refusals import Desk
from tests.exporting.made_lora import LORA, SD15

# An empty header is a LoRA without layers, and a header may be a model's: that is told by who loads it.
WITHOUT_SAYING = ("nothing", "no model", "configs in configs")


def start(desk: Desk, path: Path) -> Callable[[], Any]:
    return lambda: desk.new("fresh", {("adapter", "init_from"): str(path)})


@pytest.mark.parametrize("what", [one for one in (*HEADERS, *ARCHIVES) if one not in WITHOUT_SAYING])
def test_a_file_is_refused_at_once(desk: Desk, bad: Path, what: str) -> None:
    path = bad / "x.safetensors"
    content, code = {**HEADERS, **ARCHIVES}[what]
    path.write_bytes(content())
    refused(
        desk.folder, start(desk, path), code if code.startswith("model_is_") else code.replace("model_", "lora_", 1)
    )


def test_a_pickle_and_things_that_are_no_files(desk: Desk, bad: Path) -> None:
    (bad / "pickle.pt").write_bytes(pickled({"x": torch.zeros(1)}))
    os.mkfifo(bad / "pipe")
    (bad / "zero").symlink_to("/dev/zero")
    (bad / "circle").symlink_to("circle")
    for name, code in (
        ("pickle.pt", "lora_pickle"),
        ("pipe", "lora_irregular"),
        ("zero", "lora_irregular"),
        ("circle", "init_from_missing"),
        (".", "lora_irregular"),
    ):
        refused(desk.folder, start(desk, bad / name), code)


def test_truncated_anywhere(desk: Desk, bad: Path) -> None:
    for number, data in enumerate(truncations(desk.workshop.run.export("last"), 12)):
        path = bad / f"{number}.safetensors"
        path.write_bytes(data)
        with pytest.raises(ModelError, match="lora_truncated|lora_unknown|lora_damaged"):
            start(desk, path)()
        path.unlink()


def changed(desk: Desk, change: Callable[[dict[str, Tensor], str], None]) -> dict[str, Tensor]:
    tensors = safetensors.torch.load_file(desk.workshop.run.export("last"))
    change(tensors, next(name.removesuffix(".alpha") for name in tensors if name.endswith(".alpha")))
    return tensors


def not_a_number(tensors: dict[str, Tensor], module: str) -> None:
    tensors[f"{module}.lora_up.weight"].view(-1)[0] = float("nan")


def infinite_alpha(tensors: dict[str, Tensor], module: str) -> None:
    tensors[f"{module}.alpha"] = torch.tensor(float("inf"))


def too_large_for_float32(tensors: dict[str, Tensor], module: str) -> None:
    name = f"{module}.lora_down.weight"
    tensors[name] = tensors[name].double() + 1e300


def an_eight_bit_nan(tensors: dict[str, Tensor], module: str) -> None:
    name = f"{module}.lora_down.weight"
    tensors[name] = (tensors[name].float() * float("nan")).to(torch.float8_e4m3fn)


def complex_numbers(tensors: dict[str, Tensor], module: str) -> None:
    name = f"{module}.lora_down.weight"
    tensors[name] = tensors[name].to(torch.complex64)


def two_alphas(tensors: dict[str, Tensor], module: str) -> None:
    tensors[f"{module}.alpha"] = torch.ones(2)


def half_a_pair(tensors: dict[str, Tensor], module: str) -> None:
    del tensors[f"{module}.lora_up.weight"]


def no_rank(tensors: dict[str, Tensor], module: str) -> None:
    for part, shape in (("down", (0, 4)), ("up", (4, 0))):
        tensors[f"{module}.lora_{part}.weight"] = torch.zeros(shape)


def flat(tensors: dict[str, Tensor], module: str) -> None:
    name = f"{module}.lora_down.weight"
    tensors[name] = tensors[name].flatten()


def five_dimensions(tensors: dict[str, Tensor], module: str) -> None:
    name = f"{module}.lora_down.weight"
    tensors[name] = tensors[name].reshape(1, 1, 1, 1, -1)


def a_key_of_another(tensors: dict[str, Tensor], module: str) -> None:
    tensors[f"{module}.dora_scale"] = torch.ones(1)


def an_escape_as_a_key(tensors: dict[str, Tensor], module: str) -> None:
    tensors[f"\x1b[2J{module}.alpha"] = torch.ones(1)


def empty(tensors: dict[str, Tensor], module: str) -> None:
    assert module
    tensors.clear()


CHANGES: dict[Callable[[dict[str, Tensor], str], None], str] = {
    not_a_number: "init_from_not_finite",
    infinite_alpha: "init_from_not_finite",
    too_large_for_float32: "init_from_not_finite",
    an_eight_bit_nan: "init_from_not_finite",
    complex_numbers: "init_from_not_finite",
    two_alphas: "init_from_shape",
    half_a_pair: "init_from_incomplete",
    no_rank: "init_from_shape",
    flat: "init_from_shape",
    five_dimensions: "init_from_shape",
    a_key_of_another: "init_from_foreign",
    an_escape_as_a_key: "init_from_foreign",
    empty: "init_from_incomplete",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda one: one.__name__)
def test_tensors_that_do_not_make_a_lora(
    desk: Desk, bad: Path, change: Callable[[dict[str, Tensor], str], None]
) -> None:
    tensors = changed(desk, change)
    refused(bad, lambda: from_file(tensors, LORA, SD15), CHANGES[change])


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float64])
def test_types_that_are_read(desk: Desk, dtype: torch.dtype) -> None:
    def cast(tensors: dict[str, Tensor], module: str) -> None:
        assert module
        tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items() if ".lora_" in name})

    assert {tensor.dtype for tensor in from_file(changed(desk, cast), LORA, SD15).values()} == {torch.float32}


def test_one_that_is_refused_by_the_worker_leaves_nothing(desk: Desk, bad: Path) -> None:
    safetensors.torch.save_file(changed(desk, not_a_number), bad / "x.safetensors")
    assert desk.refusal(start(desk, bad / "x.safetensors"))[:2] == ("init_from_not_finite", 2)
    assert not (desk.folder / "fresh").exists()
