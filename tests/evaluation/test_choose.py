"""Which examples are measured on: fixed, held-out ones first, and from noise of their own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lorasmith.config.sections import EvaluationConfig
from lorasmith.data.images import pixels
from lorasmith.data.types import LOSS_MASK, LOSS_WEIGHT, CachedExample, Example, Offset, Size
from lorasmith.demo.miniature import draw_pictures
from lorasmith.evaluation.choose import (
    EMPTY_CAPTION,
    EvaluationSet,
    Sides,
    choose,
    evaluation_set,
    pictures_identity,
    to_bytes,
)
from lorasmith.evaluation.limits import MAX_VALIDATED
from lorasmith.seeding import fold

SIDE = Size(64, 64)


def example(number: int, *, sha256: str = "") -> Example:
    sha256 = sha256 or f"{fold(0, number):064x}"
    return Example(Path(f"{number:03d}.png"), f"caption {number}", 1, SIDE, SIDE, SIDE, Offset(0, 0), sha256, sha256)


TRAINED, APART = [example(number) for number in range(50)], [example(number) for number in range(100, 140)]


def test_held_out_ones_come_first() -> None:
    chosen = choose(TRAINED, APART[:2], count=5, seed=1)
    assert set(chosen.sampled[:2]) == set(APART[:2])
    assert set(chosen.sampled[2:]) <= set(TRAINED)
    assert len(chosen.sampled) == 5
    assert chosen.is_held_out
    assert set(chosen.validated) == set(APART[:2])
    assert len(chosen.all) == len(set(chosen.all)) == 5


def test_without_held_out_ones_the_samples_are_validated_on() -> None:
    chosen = choose(TRAINED, [], count=3, seed=1)
    assert not chosen.is_held_out
    assert chosen.validated == chosen.sampled


def test_what_is_taught_comes_before_what_only_reminds() -> None:
    taught = [replace(one, repeats=10) for one in TRAINED[10:14]]
    chosen = choose([*TRAINED[:10], *taught], [], count=6, seed=1)
    assert set(chosen.sampled[:4]) == set(taught)
    assert set(chosen.sampled[4:]) <= set(TRAINED[:10])


def test_there_may_be_fewer() -> None:
    assert len(choose(TRAINED[:2], [], count=9, seed=1).sampled) == 2
    assert len(choose(TRAINED, APART, count=2, seed=1).validated) == MAX_VALIDATED


def test_the_choice_is_fixed() -> None:
    """Neither the order of the files nor pictures that come later move it more than they must."""
    first = choose(TRAINED[:40], [], count=8, seed=1)
    assert choose(TRAINED[:40][::-1], [], count=8, seed=1) == first
    assert choose(TRAINED[:40], [], count=8, seed=2) != first
    assert [one.image.name for one in first.sampled] != [one.image.name for one in TRAINED[:8]]
    later = choose(TRAINED, [], count=8, seed=1)
    kept = [one for one in first.sampled if one in later.sampled]
    assert [one for one in later.sampled if one in TRAINED[:40]] == kept


def test_equal_pictures_are_taken_once() -> None:
    twins = [example(1, sha256="a" * 64), example(2, sha256="a" * 64), example(3)]
    assert len(choose(twins, [], count=3, seed=1).sampled) == 2
    reminding = replace(twins[1], repeats=1)
    assert len(choose([replace(twins[0], repeats=10), reminding], [], count=3, seed=1).sampled) == 1


@pytest.fixture
def real(tmp_path: Path) -> list[Example]:
    from lorasmith.data.buckets import Cutting
    from lorasmith.data.folder import PictureFolder, scan

    draw_pictures(tmp_path / "data", 3, seed=1, size=(128, 64), repeats=1)
    found = scan(PictureFolder(tmp_path / "data"), Cutting(64, 8), trigger_word="", skip_bad=False, check_pixels=False)
    return list(found.examples)


def made(real: list[Example], *, multiple: int = 1, **settings: object) -> EvaluationSet:
    chosen = choose(real, [], count=2, seed=7)
    cached = {
        one: CachedExample(
            {
                "latents": torch.zeros(4, one.bucket.height // 8, one.bucket.width // 8),
                "c": torch.zeros(1),
                LOSS_MASK: torch.zeros(1),  # these two are no inputs of samples: prompts have none
                LOSS_WEIGHT: torch.zeros(()),
            }
        )
        for one in real
    }
    config = EvaluationConfig(**settings)
    captions = [line.partition(" --")[0] for line in config.sample_prompts]
    texts = {caption: {"c": torch.ones(1)} for caption in (EMPTY_CAPTION, *captions)}
    return evaluation_set(chosen, cached, texts, sizes_of, settings=config, sides=Sides(64, multiple), seed=7)


def sizes_of(example: Example) -> dict[str, torch.Tensor]:
    """What a family may derive from an example's geometry."""
    return {"sizes": torch.tensor([*example.original, *example.crop, *example.bucket])}


def test_samples_of_examples(real: list[Example]) -> None:
    first, second = made(real, strength=0.3).specs
    assert first.original is not None
    assert (first.name, second.name) == ("example-01", "example-02")
    assert (first.prompt, first.denoising_strength) == (first.original.caption, 0.3)
    assert first.seed != second.seed
    assert 0 <= first.seed < 1 << 32
    assert first.latents is not None and first.inputs.keys() == {"c"}
    assert first.pixels is not None
    assert first.pixels.shape == (first.original.bucket.height, first.original.bucket.width, 3)
    assert np.allclose(first.pixels.transpose(2, 0, 1) / 127.5 - 1, pixels(first.original), atol=1e-6)
    assert made(real).specs[0].seed == first.seed


def test_samples_of_prompts_are_square_and_drawn_from_nothing(real: list[Example]) -> None:
    *_, first, second = made(real, sample_prompts=("a cat", "a dog")).specs
    assert (first.name, first.prompt, second.prompt) == ("prompt-01", "a cat", "a dog")
    assert (first.original, first.latents, first.pixels, first.denoising_strength) == (None, None, None, 1.0)
    assert first.inputs["sizes"].tolist() == [64, 64, 0, 0, 64, 64]
    assert first.latents_shape == (4, 8, 8)
    assert first.seed != second.seed


def test_sides_that_a_prompt_names_are_those_of_the_model(real: list[Example]) -> None:
    """Transformers divide latents into patches."""
    *_, first, second = made(real, multiple=16, sample_prompts=("a cat --w 104 --h 72", "a dog")).specs
    assert first.inputs["sizes"].tolist() == [96, 64, 0, 0, 96, 64]
    assert first.latents_shape == (4, 8, 12) and second.latents_shape == (4, 8, 8)


def test_a_changed_picture_is_named(real: list[Example]) -> None:
    from lorasmith.errors import DatasetError

    with pytest.raises(DatasetError):
        made([replace(one, image_sha256="0" * 63 + str(number)) for number, one in enumerate(real)])


def test_bytes_of_a_picture() -> None:
    values = np.array([-1, -0.5, 0, 1, 1.7, -9, np.nan, np.inf], dtype=np.float32).reshape(1, 2, 4).repeat(3, 0)
    assert to_bytes(values)[..., 0].ravel().tolist() == [0, 64, 128, 255, 255, 0, 0, 255]


def test_losses_are_comparable_where_pictures_and_objective_are_the_same(real: list[Example]) -> None:
    plain = made(real)
    assert plain.pictures == pictures_identity([one for one, _ in plain.validated])
    other = replace(plain, objective='{"loss_type": "l1"}')
    assert other.pictures != plain.pictures and len(other.pictures) == len(plain.pictures)
