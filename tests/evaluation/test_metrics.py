"""How far samples are from their examples, and what is said where that cannot be known."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lorasmith.data.buckets import Cutting
from lorasmith.data.folder import PictureFolder, scan
from lorasmith.data.types import Example
from lorasmith.demo.miniature import draw_pictures
from lorasmith.errors import ModelError
from lorasmith.evaluation import metrics as module
from lorasmith.evaluation.choose import SampleSpec, picture_of
from lorasmith.evaluation.metrics import PictureMetrics, PictureScores
from lorasmith.evaluation.samples import Sample
from lorasmith.metrics.clip import Preparation


class MeanColour:
    preparation = Preparation(None, None, "bicubic", None, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))

    def __call__(self, pixels: Tensor) -> Tensor:
        return pixels.mean((2, 3))


class Failing(MeanColour):
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def __call__(self, pixels: Tensor) -> Tensor:
        if self.error is not None:
            raise self.error
        return pixels.mean((2, 3)) * torch.nan


@pytest.fixture
def examples(tmp_path: Path) -> tuple[Example, ...]:
    draw_pictures(tmp_path / "data", 4, seed=3, size=(64, 64), repeats=1)
    return scan(
        PictureFolder(tmp_path / "data"), Cutting(64, 8), trigger_word="", skip_bad=False, check_pixels=False
    ).examples


def sample(example: Example | None, picture: np.ndarray | None = None, *, is_finite: bool = True) -> Sample:
    """By default one that is its example."""
    original = None if example is None else picture_of(example)
    spec = SampleSpec("x", "", 1, 0.5, {}, example, (4, 8, 8), None, original)
    shown = original if picture is None else picture
    assert shown is not None
    return Sample(spec, shown, is_finite)


def comparer(trained: tuple[Example, ...], encoder: object = None) -> PictureMetrics:
    return PictureMetrics(Path("clip"), lambda name: encoder or MeanColour(), trained)


def measured(one: PictureMetrics, samples: Sequence[Sample], *, is_end: bool = False) -> PictureScores:
    return one.measure(samples, is_end=is_end, alive=lambda: None)


def test_a_sample_that_is_its_example_has_no_loss(examples: tuple[Example, ...]) -> None:
    samples = [sample(one) for one in examples[:2]]
    found = measured(comparer(examples), samples)
    for name in ("visual", "semantic", "color"):
        assert found.mean(name, samples) == pytest.approx(0, abs=1e-6)
    assert [one[0] if one else None for one in found.nearest] == [one.image for one in examples[:2]]
    assert [one[1] for one in found.nearest if one] == pytest.approx([1, 1])
    assert found.unavailable == {}


def test_others_have_one_and_means_are_means(examples: tuple[Example, ...]) -> None:
    samples = [sample(examples[0], 255 - picture_of(examples[0])), sample(examples[1])]
    found = measured(comparer(examples), samples)
    for name in ("visual", "semantic", "color"):
        first, second = getattr(found, name)
        assert first > 0.1 > 1e-6 > second
        assert found.mean(name, samples) == pytest.approx((first + second) / 2)


def test_a_prompt_alone_is_compared_with_the_training_set_only(examples: tuple[Example, ...]) -> None:
    samples = [sample(examples[0]), sample(None, picture_of(examples[2]))]
    found = measured(comparer(examples), samples)
    assert (found.visual[1], found.semantic[1], found.color[1]) == (None, None, None)
    assert found.nearest[1] is not None
    assert found.nearest[1][0] == examples[2].image
    assert found.mean("visual", samples) == pytest.approx(0, abs=1e-6)


def test_without_clip(examples: tuple[Example, ...]) -> None:
    samples = [sample(examples[0])]
    found = measured(PictureMetrics(None, lambda name: MeanColour(), examples), samples)
    assert found.unavailable == {"semantic": "no_clip_model"}
    assert found.mean("semantic", samples) is None
    assert found.nearest == [None]
    assert found.mean("color", samples) == 0


def test_a_clip_that_fails_is_tried_once(examples: tuple[Example, ...]) -> None:
    asked = []

    def load(name: str) -> MeanColour:
        asked.append(name)
        raise ModelError("clip_model", model=name, reason="broken")

    one = PictureMetrics(Path("clip"), load, examples)
    for _ in range(2):
        assert measured(one, [sample(examples[0])]).unavailable == {"semantic": "clip_failed"}
    assert asked == ["clip"]
    assert one.failure is not None
    assert one.failure.fields == {"model": "clip", "reason": "broken"}


def test_what_is_no_number(examples: tuple[Example, ...]) -> None:
    samples = [sample(examples[0], is_finite=False), sample(examples[1])]
    found = measured(comparer(examples), samples)
    assert found.unavailable == dict.fromkeys(("visual", "semantic", "color"), "not_finite")
    assert (found.visual[0], found.nearest[0]) == (None, None)
    assert found.visual[1] is not None
    assert found.mean("visual", samples) is None  # a mean of other pictures would be another measure

    found = measured(comparer(examples, Failing()), [sample(examples[0])])
    assert found.unavailable == {"semantic": "not_finite"}
    assert (found.semantic, found.nearest) == ([None], [None])


def test_out_of_memory(examples: tuple[Example, ...]) -> None:
    found = measured(comparer(examples, Failing(torch.OutOfMemoryError())), [sample(examples[0])])
    assert found.unavailable == {"semantic": "out_of_memory"}
    with pytest.raises(RuntimeError, match="shapes"):
        measured(comparer(examples, Failing(RuntimeError("shapes"))), [sample(examples[0])])


def test_no_memory_to_load_clip_with(examples: tuple[Example, ...]) -> None:
    """Tried again the next time: then there may be some."""

    def load(_: str) -> MeanColour:
        tries.append(1)
        if len(tries) == 1:
            raise MemoryError
        return MeanColour()

    tries: list[int] = []
    one = PictureMetrics(Path("clip"), load, examples)
    first = measured(one, [sample(examples[0])])
    assert (first.unavailable, first.semantic) == ({"semantic": "out_of_memory"}, [None])
    assert measured(one, [sample(examples[0])]).semantic == [pytest.approx(0, abs=1e-6)]


def test_a_picture_that_changed(examples: tuple[Example, ...]) -> None:
    gone = (*examples[:3], replace(examples[3], image_sha256="0" * 64))
    found = measured(comparer(gone), [sample(examples[0])])
    assert found.unavailable == {"nearest": "picture_changed"}
    assert found.semantic == [pytest.approx(0, abs=1e-6)]


def test_large_sets_are_searched_at_the_end_alone(
    examples: tuple[Example, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_COMPARED_EACH_TIME", 3)
    one = comparer(examples)
    assert measured(one, [sample(examples[0])]).nearest == [None]
    assert measured(one, [sample(examples[0])], is_end=True).nearest != [None]


def test_pictures_that_stay_are_embedded_once(examples: tuple[Example, ...]) -> None:
    beats: list[int] = []
    one = comparer(examples)
    counts = []
    for _ in range(2):
        beats.clear()
        one.measure([sample(examples[0])], is_end=False, alive=lambda: beats.append(1))
        counts.append(len(beats))
    assert counts == [1 + 1 + 1 + 4, 1 + 1]


def test_nothing_to_measure(examples: tuple[Example, ...]) -> None:
    assert measured(comparer(examples), []).unavailable == {}
