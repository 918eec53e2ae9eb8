"""Pickled checkpoints: weights are read, everything else is refused and never run."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lorasmith.errors import ModelError
from lorasmith.families import load_family
from lorasmith.families.headers import read_header
from lorasmith.families.places import Place
from lorasmith.families.recognize import recognize
from lorasmith.families.stored_tensors import _read_tensors, examine_pickle, load_pickle


class Payload:
    """Runs code when an ordinary unpickler meets it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_a_good_one_is_told_by_its_keys(narrow) -> None:
    weights = examine_pickle(recognize(narrow.ckpt))
    single = recognize(narrow.single)
    assert (weights.layout, weights.family) == ("pickle", "sd15")
    assert weights.configs == single.configs
    assert weights.denoiser_parameters == single.denoiser_parameters
    assert load_family(recognize(narrow.ckpt)).weights == weights


@pytest.mark.parametrize("is_zip", [True, False])
def test_code_is_refused_and_not_run(narrow, tmp_path: Path, is_zip: bool) -> None:
    state = torch.load(narrow.ckpt, weights_only=True)
    mark, file = tmp_path / "ran", tmp_path / "model.ckpt"
    torch.save({**state, "callbacks": Payload(mark)}, file, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ModelError) as caught:
        load_family(recognize(file))
    assert caught.value.code == "model_pickle_refused"
    assert not mark.exists()
    torch.load(file, weights_only=False)
    assert mark.exists()  # the payload works


def test_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.ckpt"
    file.write_bytes(pickle.dumps({"state_dict": Payload(tmp_path / "ran")}))
    with pytest.raises(ModelError):
        load_pickle(file)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, {"a": torch.zeros(3)}, {"state_dict": 3}])
def test_other_pickles_are_no_model(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "model.ckpt")
    with pytest.raises(ModelError, match="model_unknown"):
        load_family(recognize(tmp_path / "model.ckpt"))


def test_another_family_in_a_pickle(narrow, tmp_path: Path) -> None:
    state = torch.load(narrow.ckpt, weights_only=True)["state_dict"]
    torch.save(state | {"joint_blocks.0.x_block.attn.qkv.bias": torch.zeros(4)}, tmp_path / "model.ckpt")
    with pytest.raises(ModelError, match="model_other_family"):
        load_family(recognize(tmp_path / "model.ckpt"))


def test_damage_has_a_name(tmp_path: Path) -> None:
    file = tmp_path / "model.ckpt"
    torch.save({"a": torch.zeros(64)}, file, _use_new_zipfile_serialization=False)
    content = file.read_bytes()
    for cut in range(3, len(content), 37):
        file.write_bytes(content[:cut])
        with pytest.raises(ModelError) as caught:
            load_pickle(file)
        assert caught.value.code in {"model_damaged", "model_pickle_refused"}


def test_tensors_are_copies_laid_out_plainly(narrow, tmp_path: Path) -> None:
    """A tensor stored transposed comes out as an ordinary one."""
    state = torch.load(narrow.ckpt, weights_only=True)["state_dict"]
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    torch.save(state | {name: state[name].t().contiguous().t()}, tmp_path / "model.ckpt")
    families = [load_family(recognize(path)) for path in (tmp_path / "model.ckpt", narrow.ckpt)]
    layers = [
        one.load_models(trained=[], dtype=torch.float32, to=torch.device("cpu"))["denoiser"].get_submodule(
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
        )
        for one in families
    ]
    assert layers[0].weight.is_contiguous()
    assert torch.equal(layers[0].weight, layers[1].weight)


@pytest.mark.parametrize("wanted", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("given", [torch.float16, torch.bfloat16, torch.float32])
def test_numbers_are_converted_as_torch_does(given: torch.dtype, wanted: torch.dtype, tmp_path: Path) -> None:
    every = torch.arange(1 << 16).to(torch.uint16).view(torch.bfloat16 if given == torch.float32 else given)
    numbers = every[every.isfinite()].to(given).repeat(20)  # more than are converted at once
    state = {"few": numbers[:7].clone(), "many": numbers, "none": numbers[:0].clone(), "one": numbers[9].clone()}
    save_file(state, tmp_path / "model.safetensors")
    tensors = read_header(tmp_path / "model.safetensors").tensors
    places = [(name, Place(name), info) for name, info in tensors.items()]
    read = {name: tensor for name, tensor, _ in _read_tensors(tmp_path / "model.safetensors", places, lambda _: wanted)}
    assert read.keys() == state.keys()
    for name, stored in state.items():
        expected = stored.to(wanted)
        assert read[name].shape == expected.shape
        assert torch.equal(read[name].view(-1).view(torch.uint8), expected.view(-1).view(torch.uint8))
