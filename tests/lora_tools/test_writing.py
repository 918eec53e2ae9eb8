"""Files of the tools: the library's own order, fresh hashes, whole or not at all."""

import hashlib
from collections import Counter
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from lorasmith.errors import InputError, ModelError
from lorasmith.exporting.write import export_bytes
from lorasmith.families import FAMILIES
from lorasmith.lora_files.reader import read_lora
from lorasmith.lora_tools import writing
from lorasmith.lora_tools.writing import Stored, known_family, metadata_of, write_lora
from tests.lora_tools.made import METADATA, tensors_of, write


def stored(tensors: dict[str, torch.Tensor], dtype: str) -> dict[str, Stored]:
    return {
        name: Stored.of(tensor.numpy(), "F32" if name.endswith("alpha") else dtype) for name, tensor in tensors.items()
    }


@pytest.mark.parametrize(("dtype", "like"), [("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16)])
def test_the_bytes_are_those_of_an_export(tmp_path: Path, dtype: str, like: torch.dtype) -> None:
    write_lora(tmp_path / "a", stored(tensors_of(), dtype), METADATA)
    assert (tmp_path / "a").read_bytes() == export_bytes(tensors_of(), METADATA, like)


def test_a_file_that_is_not_read_back_gets_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damages(path: Path, data: bytes, *, check: object, is_new: bool) -> None:
        assert is_new
        path.with_name("x").write_bytes(data[:-1])
        check(path.with_name("x"))

    monkeypatch.setattr(writing, "write_atomically", damages)
    with pytest.raises(InputError, match="tool_not_as_written"):
        write_lora(tmp_path / "a", stored(tensors_of(), "F32"), {})
    assert not (tmp_path / "a").exists()


def test_a_tensor_is_taken_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "a")
    info = read_lora(path).header.tensors[next(iter(tensors_of()))]
    data = path.read_bytes()[info.start : info.end]
    assert Stored.unchanged(info, data) == Stored(info.dtype, info.shape, data)
    assert hashlib.sha256(data) != hashlib.sha256(np.zeros(1))


def test_families_and_layers_that_tools_do_not_know(tmp_path: Path) -> None:
    assert known_family(read_lora(write(tmp_path / "a"))) == "sd15"
    with pytest.raises(ModelError, match="tool_layers_unknown"):
        known_family(read_lora(write(tmp_path / "b", {**tensors_of(), "x": torch.ones(1)})))
    assert safetensors.torch.load_file(tmp_path / "a").keys() == tensors_of().keys()


LOHA = {"ss_network_module": "lycoris.kohya", "ss_network_args": '{"algo": "loha", "conv_dim": "2"}'}


def test_metadata_speak_of_the_tensors_that_are_there() -> None:
    """A LoHa that was resized is a LoRA; a LoHa that was converted still is one."""
    ranks, alphas = Counter({4: 1}), Counter({2.0: 1})
    resized = metadata_of(LOHA, "sd15", ranks=ranks, alphas=alphas, kinds=frozenset({"lora", "locon"}))
    assert resized["ss_network_module"] == "networks.lora" and "ss_network_args" not in resized
    assert (resized["ss_network_dim"], resized["ss_network_alpha"]) == ("4", "2.0")
    for kind in ("loha", "dora"):
        kept = metadata_of(LOHA, "sd15", ranks=ranks, alphas=alphas, kinds=frozenset({kind}))
        assert kept.items() >= LOHA.items()


@pytest.mark.parametrize("family", FAMILIES)
def test_metadata_state_the_models_as_a_training_does(family: str) -> None:
    made = metadata_of({}, family, ranks=Counter({4: 1}), alphas=Counter({4.0: 1}), kinds=frozenset({"lora"}))
    place, _, name = FAMILIES[family].family.partition(":")
    traits = getattr(import_module(place), name).traits
    assert made["ss_base_model_version"] == traits.base_model_version
    assert made["modelspec.architecture"] == traits.architecture
    assert made["modelspec.implementation"] == traits.implementation
