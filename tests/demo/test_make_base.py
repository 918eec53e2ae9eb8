"""The whole recipe, a few steps of each stage: what comes out is a model that the program recognises and runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from lorasmith.demo import base_parts, make_base
from lorasmith.demo.base_folder import write_base
from lorasmith.demo.make_base import Recipe
from lorasmith.demo.scenes import known_scenes
from lorasmith.families import load_family
from lorasmith.families.recognize import recognize

TINY = Recipe(
    vae_steps=2,
    vae_edges_steps=2,
    vae_edges_batch=4,
    clip_steps=2,
    unet_steps=2,
    unet_batch=8,
    pictures=40,
    half_precision=False,
)


@pytest.fixture(scope="module")
def few_pictures() -> Iterator[None]:
    whole, scenes = base_parts.drawn_scenes, known_scenes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_parts, "HEAPS", 8)
        patch.setattr(base_parts, "drawn_scenes", lambda count, seed: whole(min(count, 40), seed))
        patch.setattr(base_parts, "known_scenes", lambda: scenes[:150])
        yield


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def made(work: Path, few_pictures: None) -> dict[str, nn.Module]:
    return make_base.make_base(work, TINY)


@pytest.mark.ci
def test_all_stages_from_nothing(made: dict[str, nn.Module], work: Path, tmp_path: Path) -> None:
    stored = torch.load(work / "latents.pt", weights_only=True)
    assert stored["latents"].shape == (40, 4, 16, 16)
    assert stored["latents"].std().item() == pytest.approx(1.0, abs=1e-3)
    folder = write_base(tmp_path / "base", made, scaling_factor=stored["scaling_factor"])
    weights = recognize(folder)
    assert (weights.family, weights.resolution, weights.noise.prediction) == ("sd15", 128, "epsilon")
    models = load_family(weights).load_models(trained=(), dtype=torch.float32, to=torch.device("cpu"))
    kept = models["denoiser"].state_dict()
    for name, tensor in made["unet"].state_dict().items():
        assert torch.equal(kept[name], tensor.half().float()), name
    assert sum(file.stat().st_size for file in folder.rglob("*")) < 20 * 2**20


@pytest.mark.ci
def test_a_copy_of_the_text_tower_is_trained_on_and_the_pair_stays(made: dict[str, nn.Module]) -> None:
    pair, encoder = made["clip"].state_dict(), made["text_encoder"].state_dict()
    name = next(one for one in encoder if one.endswith("layers.0.mlp.fc1.weight"))
    beside = pair["text_model." + name.removeprefix("text_model.")]
    assert not torch.equal(beside, encoder[name])
    assert torch.allclose(beside, encoder[name], atol=0.01)


@pytest.mark.ci
def test_interrupted_it_makes_the_same_model(made: dict[str, nn.Module], few_pictures: None, tmp_path: Path) -> None:
    make_base.make_base(tmp_path, TINY, stages=("vae",))
    make_base.make_base(tmp_path, TINY, stages=("clip",))
    again = make_base.make_base(tmp_path, TINY)
    for name, module in made.items():
        for key, tensor in module.state_dict().items():
            assert torch.equal(tensor, again[name].state_dict()[key]), (name, key)


@pytest.mark.ci
def test_a_written_folder_stands_in_for_the_stages_before(
    made: dict[str, nn.Module], few_pictures: None, tmp_path: Path
) -> None:
    start = write_base(tmp_path / "start", made, scaling_factor=1.0)
    again = make_base.make_base(tmp_path / "work", TINY, stages=("unet",), start=start)
    for name, module in made.items():
        for key, tensor in module.state_dict().items():
            assert torch.equal(tensor, again[name].state_dict()[key]), (name, key)
