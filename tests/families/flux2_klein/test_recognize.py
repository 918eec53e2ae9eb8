"""FLUX.2 klein among base models, by its folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorasmith.errors import ModelError
from lorasmith.families.recognize import recognize
from tests.families.flux2_klein.miniature import make_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("flux2_klein") / "model")


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    """Weights of the model, with configs of its own."""
    for file in model.rglob("*"):
        if file.is_file():
            copy = tmp_path / "model" / file.relative_to(model)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == ".json":
                copy.write_bytes(file.read_bytes())
            else:
                copy.symlink_to(file)
    return tmp_path / "model"


def changed(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_what_it_is_follows_from_headers_and_configs(folder: Path) -> None:
    weights = recognize(folder)
    assert (weights.family, weights.layout, weights.distilled) == ("flux2_klein", "diffusers", "")
    assert (weights.noise.prediction, weights.resolution) == ("flow", 1024)
    assert (weights.size_multiple, weights.bucket_step, weights.max_clip_skip) == (16, 64, None)


def test_the_distilled_model_is_refused_with_the_reason(folder: Path) -> None:
    """Its files have the names and shapes of the base model's: only the pipeline's own config tells them apart."""
    changed(folder / "model_index.json", lambda index: index.update(is_distilled=True))
    with pytest.raises(ModelError, match="model_turbo") as error:
        recognize(folder)
    assert error.value.fields["base"] == "FLUX.2 klein Base"


@pytest.mark.parametrize(
    ("pipeline", "found"), [("Flux2Pipeline", "FLUX.2 dev"), ("Flux2KleinKVPipeline", "FLUX.2 klein KV")]
)
def test_its_relatives_are_others(folder: Path, pipeline: str, found: str) -> None:
    changed(folder / "model_index.json", lambda index: index.update(_class_name=pipeline))
    with pytest.raises(ModelError, match="model_other_family") as error:
        recognize(folder)
    assert error.value.fields["found"] == found


WRONG: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "channels": ("transformer/config.json", lambda config: config.update(in_channels=32)),
    "text": ("transformer/config.json", lambda config: config.update(joint_attention_dim=32)),
    "guidance": ("transformer/config.json", lambda config: config.pop("guidance_embeds")),
    "patches": ("vae/config.json", lambda config: config.update(patch_size=[1, 1])),
    "levels": ("vae/config.json", lambda config: config.update(block_out_channels=None)),
    "latents": ("vae/config.json", lambda config: config.update(latent_channels="4")),
    "no text": ("text_encoder/config.json", lambda config: config.pop("vocab_size")),
    "a tap behind the final norm": ("text_encoder/config.json", lambda config: config.update(num_hidden_layers=27)),
}


@pytest.mark.parametrize("name", WRONG)
def test_configs_that_do_not_fit_each_other_are_refused(folder: Path, name: str) -> None:
    file, change = WRONG[name]
    changed(folder / file, change)
    with pytest.raises(ModelError, match="model_damaged"):
        recognize(folder)
