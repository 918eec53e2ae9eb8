"""The image half of a CLIP: that it is transformers' own, that what it needs is read, and that nothing is made up."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lorasmith.errors import ModelError
from lorasmith.families.image_encoders import load_clip
from lorasmith.metrics.clip import embeddings, prepared
from tests.families.tiny import tiny_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip") / "clip")


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Iterator[Path]:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    yield tmp_path


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 52, 3), dtype=np.uint8)


def test_it_is_what_transformers_makes(folder: Path) -> None:
    from transformers import CLIPModel

    encoder = load_clip(str(folder))
    theirs = CLIPModel.from_pretrained(folder)
    pixels = prepared(picture(), encoder.preparation)[None]
    assert pixels.shape == (1, 3, 32, 32)
    with torch.no_grad():
        expected = theirs.visual_projection(theirs.vision_model(pixel_values=pixels).pooler_output)
        assert torch.equal(encoder(pixels), expected)
    assert not any(one.requires_grad for one in encoder.tower.parameters())


def test_other_pictures_other_embeddings(folder: Path) -> None:
    found = embeddings(load_clip(str(folder)), [picture(0), picture(0), picture(1)])
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2])


def test_the_preparation_is_read(copied: Path) -> None:
    given = {"size": 24, "crop_size": {"height": 16, "width": 20}, "resample": 2, "image_mean": [0.1, 0.2, 0.3]}
    (copied / "preprocessor_config.json").write_text(json.dumps(given))
    found = load_clip(str(copied)).preparation
    assert (found.shortest_edge, found.size, found.crop, found.resample) == (24, None, (16, 20), "bilinear")
    assert found.mean == (0.1, 0.2, 0.3)
    assert found.deviation[0] == pytest.approx(0.2686, abs=1e-4)
    flags = {"do_resize": False, "do_center_crop": False, "do_normalize": False}
    (copied / "preprocessor_config.json").write_text(json.dumps(flags))
    found = load_clip(str(copied)).preparation
    assert (found.shortest_edge, found.size, found.crop, found.mean) == (None, None, None, (0, 0, 0))


def test_without_its_file_it_is_as_clip_s(copied: Path) -> None:
    (copied / "preprocessor_config.json").unlink()
    found = load_clip(str(copied)).preparation
    assert (found.shortest_edge, found.crop, found.resample) == (224, (224, 224), "bicubic")


def test_a_newer_file_says_it_one_level_down(copied: Path) -> None:
    (copied / "preprocessor_config.json").rename(copied / "processor_config.json")
    inner = json.loads((copied / "processor_config.json").read_text())
    (copied / "processor_config.json").write_text(json.dumps({"image_processor": inner}))
    assert load_clip(str(copied)).preparation.shortest_edge == 32


def test_lacking_weights_are_not_made_up(copied: Path) -> None:
    tensors = load_file(copied / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError) as caught:
        load_clip(str(copied))
    assert caught.value.fields["reason"] == "visual_projection.weight"


def test_lacking_text_weights_do_not_matter(copied: Path) -> None:
    tensors = {n: t for n, t in load_file(copied / "model.safetensors").items() if not n.startswith("text_")}
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    load_clip(str(copied))


@pytest.mark.parametrize("harm", ["cut", "gone", "other", "no_json"])
def test_no_whole_clip_is_named(copied: Path, harm: str) -> None:
    if harm == "cut":
        whole = (copied / "model.safetensors").read_bytes()
        (copied / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    elif harm == "gone":
        (copied / "model.safetensors").unlink()
    elif harm == "other":
        (copied / "config.json").write_text('{"model_type": "bert"}')
    else:
        (copied / "config.json").write_text("{")
    with pytest.raises(ModelError) as caught:
        load_clip(str(copied))
    assert caught.value.code == "clip_model"
    assert caught.value.fields["model"] == str(copied)
    assert caught.value.fields["reason"]


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load_clip(str(tmp_path / "nowhere"))
    assert caught.value.code == "clip_model"
