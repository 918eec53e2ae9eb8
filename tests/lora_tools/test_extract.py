"""The difference of two models as a LoRA: merged into the first, it gives the second."""

from pathlib import Path

import pytest
import torch

from lorasmith.demo.miniature import to_single_file
from lorasmith.errors import ModelError
from lorasmith.lora_files.names import layers_of
from lorasmith.lora_files.reader import read_lora
from lorasmith.lora_tools.combine import Source
from lorasmith.lora_tools.extract import extract
from lorasmith.lora_tools.inspection import inspect_lora
from lorasmith.lora_tools.into_model import merge_into
from lorasmith.lora_tools.low_rank import Cut
from lorasmith.lora_tools.models import open_model, write_changed
from tests.families.unet_miniature import make_model
from tests.lora_tools.conftest import Made
from tests.lora_tools.flow import RANK, FlowMade, weights_of
from tests.lora_tools.flow import lora as flow_lora
from tests.lora_tools.test_into_model import lora


@pytest.mark.parametrize("layout", ["file", pytest.param("folder", marks=pytest.mark.ci)])
def test_a_lora_that_was_merged_is_found_again(made: Made, tmp_path: Path, layout: str) -> None:
    path, changes = lora(made, tmp_path / "lora", "lora")
    base, tuned, out = getattr(made, layout), tmp_path / "tuned.safetensors", tmp_path / "out.safetensors"
    merge_into(base, [Source(path)], tuned)
    seen: list[tuple[int, int]] = []
    found = extract(base, tuned, out, cut=Cut(rank=2), precision="fp32", progress=lambda *given: seen.append(given))
    assert found.layers == len(changes) and found.ranks == (2, 2) and found.energy > 0.99
    assert seen[0][0] == 0 and seen[-1] == (len(changes), len(changes))
    again = tmp_path / "again.safetensors"
    merge_into(base, [Source(out)], again)
    before, after, expected = made.weights(), made.weights(again), made.weights(tuned)
    for target, change in changes.items():
        error = (after[target] - expected[target]).norm() / change.norm()
        assert error < 0.03 and not torch.equal(before[target], after[target])  # the model is in half precision
    assert {odd.code for odd in inspect_lora(out).oddities} == set()
    assert read_lora(out).family == made.family


def test_layers_that_are_equal_are_left_out(made: Made, tmp_path: Path) -> None:
    model = open_model(made.folder)
    target = next(target for target in sorted(model.places) if target.endswith("attn1.to_q"))
    write_changed(model, tmp_path / "tuned", {target: lambda old: old + 0.5})
    found = extract(made.folder, tmp_path / "tuned", tmp_path / "out", cut=Cut(energy=0.9))
    assert (found.layers, found.ranks) == (1, (1, 1))
    assert set(read_lora(tmp_path / "out").dtypes) == {"F16"}
    with pytest.raises(ModelError, match="tool_models_equal"):
        extract(made.folder, made.file, tmp_path / "none", cut=Cut(rank=1))


@pytest.mark.ci
def test_the_metadata_state_the_prediction_of_the_model(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for prediction, stated, version in (("epsilon", "epsilon", ""), ("v_prediction", "v", "_v")):
        base, tuned = (
            make_model(
                tmp_path / f"{prediction}{seed}", family=made.family, size="nano", seed=seed, prediction=prediction
            )
            for seed in (0, 1)
        )
        extract(base, tuned, out, cut=Cut(rank=1))
        metadata = read_lora(out).metadata
        out.unlink()
        assert metadata["modelspec.prediction_type"] == stated
        assert metadata["ss_base_model_version"].endswith("_v") == (bool(version) and made.family != "sdxl")
        if made.family == "sd2":
            assert ("768-v" in metadata["modelspec.architecture"]) == bool(version)


def test_models_of_another_size_or_family(tmp_path: Path, made: Made) -> None:
    larger = make_model(tmp_path / "larger", family=made.family, size="miniature")
    with pytest.raises(ModelError, match="tool_models_differ"):
        extract(made.folder, larger, tmp_path / "out", cut=Cut(rank=1))
    other = "sd15" if made.family == "sdxl" else "sdxl"
    file = to_single_file(make_model(tmp_path / "other", family=other, size="nano"), tmp_path / "x", with_configs=True)
    with pytest.raises(ModelError, match="tool_models_differ"):
        extract(made.folder, file, tmp_path / "out", cut=Cut(rank=1))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layout", ["folder", "file"])
def test_a_lora_of_flow_matching_is_found_again(flow: FlowMade, tmp_path: Path, layout: str) -> None:
    """From a folder and from ComfyUI's file alike, in the family's own names."""
    changes = flow_lora(flow, tmp_path / "lora")
    tuned, out = tmp_path / "tuned", tmp_path / "out"
    merge_into(getattr(flow, layout), [Source(tmp_path / "lora")], tuned)
    made = extract(flow.folder, tuned, out, cut=Cut(rank=3 * RANK), precision="fp32")
    assert made.energy > 0.999
    merge_into(flow.folder, [Source(out)], tmp_path / "again")
    expected = {name: weight.float() + changes.get(name, 0) for name, weight in flow.weights.items()}
    for name, weight in weights_of(tmp_path / "again").items():
        torch.testing.assert_close(weight.float(), expected[name], rtol=1e-3, atol=1e-3, msg=name)
    file = read_lora(out)
    assert file.families == (flow.family,) and "modelspec.prediction_type" not in file.metadata
    assert {module.name for module in file.modules} <= layers_of(flow.family).table.modules.keys()
