"""A LoRA that is added to weights as they are read."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lorasmith.errors import ModelError
from lorasmith.families import load_family
from lorasmith.families.added_lora import taken_out
from lorasmith.families.recognize import recognize
from lorasmith.families.stored_tensors import read_component
from lorasmith.families.weights import AddedLora, AddedPair, BaseWeights
from tests.families.zimage.turbo import WEIGHTS, make_turbo, pairs, write_adapter


@pytest.fixture
def weights(tmp_path: Path) -> BaseWeights:
    path = write_adapter(tmp_path / "adapter.safetensors")
    added = [
        AddedPair(f"{layer}.weight", f"{prefix}A.weight", f"{prefix}B.weight", 0.5)
        for layer in pairs()
        for prefix in [f"diffusion_model.{layer}.lora_"]
    ]
    return replace(recognize(make_turbo(tmp_path / "turbo")), added=AddedLora(path, "transformer", tuple(added)))


def test_the_sum_is_made_in_float32_and_rounded_once(weights: BaseWeights) -> None:
    """A sum of bfloat16 numbers, or in them, would be another."""
    stored = load_file(weights.path / WEIGHTS)
    expected = dict(stored)
    for layer, (down, up) in pairs().items():
        expected[f"{layer}.weight"] = stored[f"{layer}.weight"] + 0.5 * up @ down
    for dtype in (torch.float32, torch.bfloat16):
        found = read_component(weights, "transformer", dtype)
        assert all(torch.equal(found[name], tensor.to(dtype)) for name, tensor in expected.items())
    early = {f"{layer}.weight": (0.5 * up @ down).to(torch.bfloat16) for layer, (down, up) in pairs().items()}
    assert any(not torch.equal(found[name], stored[name].to(torch.bfloat16) + change) for name, change in early.items())
    plain = read_component(replace(weights, added=None), "transformer", torch.float32)
    assert all(torch.equal(plain[name], tensor) for name, tensor in stored.items())


def test_other_components_stay_as_they_are(weights: BaseWeights) -> None:
    found, plain = (read_component(one, "vae", torch.float32) for one in (weights, replace(weights, added=None)))
    assert all(torch.equal(found[name], tensor) for name, tensor in plain.items())


@pytest.mark.parametrize("change", ["no such layer", "another size", "gone"])
def test_a_file_that_does_not_fit_is_refused(weights: BaseWeights, change: str) -> None:
    added = weights.added
    assert added is not None
    first, *rest = added.pairs
    code = "training_adapter_layers"
    if change == "no such layer":
        first = replace(first, weight="layers.9.attention.to_q.weight")
    elif change == "another size":
        first = replace(first, weight="layers.0.feed_forward.w1.weight")
    else:
        added.path.unlink()
        code = "lora_unreadable"
    with pytest.raises(ModelError, match=code):
        read_component(replace(weights, added=replace(added, pairs=(first, *rest))), "transformer", torch.float32)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_it_is_taken_out_of_the_outputs_and_the_weights_stay(
    weights: BaseWeights, dtype: torch.dtype, most: float
) -> None:
    families = load_family(weights), load_family(replace(weights, added=None))
    summed, turbo = (one.load_models(trained=[], dtype=dtype, to=torch.device("cpu")) for one in families)
    before = {name: tensor.clone() for name, tensor in summed["denoiser"].state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    latents, embeds = (torch.randn(*size, generator=generator) for size in ((1, 4, 6, 4), (1, 32, 24)))
    conditioning = {"prompt_embeds": embeds, "prompt_mask": torch.arange(32)[None] < 9}

    @torch.no_grad()
    def predicted(models: dict[str, nn.Module]) -> Tensor:
        return families[0].predict(models, latents, torch.tensor([0.7]), conditioning).float()

    with_adapter, expected = predicted(summed), predicted(turbo)
    assert (with_adapter - expected).norm() > 0.05 * expected.norm()
    with taken_out(weights.added, summed["denoiser"]):
        assert (predicted(summed) - expected).norm() < most * expected.norm()
    assert torch.equal(predicted(summed), with_adapter)
    assert all(torch.equal(before[name], tensor) for name, tensor in summed["denoiser"].state_dict().items())
