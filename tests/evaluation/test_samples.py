"""Pictures of what was learned: fixed, batched together, and each a function of its own seed."""

from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lorasmith.diffusion.sampling import SamplingDefaults
from lorasmith.evaluation import samples as module
from lorasmith.evaluation.choose import EvaluationSet
from lorasmith.evaluation.samples import Sample, generate, sampling_of
from lorasmith.session.loaded import LoadedRun
from tests.end_to_end.workshop import Workshop, load, stage
from tests.evaluation.few_steps import sample_in


@pytest.fixture
def loaded(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> LoadedRun:
    sample_in(monkeypatch, 10)
    workshop.run.root.mkdir()
    values = {
        ("evaluation", "every"): 2,
        ("evaluation", "sample_prompts"): ("a red ring",),
        ("training", "batch_size"): 2,
    }
    stage(workshop.start_new(4, values))
    return load(workshop.run, stop_at=4)


def measured_on(loaded: LoadedRun) -> EvaluationSet:
    assert loaded.evaluator.measured_on is not None
    return loaded.evaluator.measured_on


def generated(loaded: LoadedRun, chosen: EvaluationSet | None = None) -> list[Sample]:
    with torch.no_grad():
        return generate(loaded.context, chosen or measured_on(loaded), at_once=8, alive=lambda: None)


def pictures(found: list[Sample]) -> list[bytes]:
    return [one.picture.tobytes() for one in found]


def test_each_has_the_size_of_its_example(loaded: LoadedRun) -> None:
    found = generated(loaded)
    assert [one.spec.name for one in found] == ["example-01", "example-02", "example-03", "example-04", "prompt-01"]
    for one in found[:4]:
        assert one.spec.original is not None
        bucket = one.spec.original.bucket
        assert one.picture.shape == (bucket.height, bucket.width, 3)
    assert found[4].picture.shape == (64, 64, 3)
    assert all(one.is_finite and one.picture.dtype == np.uint8 for one in found)
    assert len(set(pictures(found))) == 5


def test_the_same_again(loaded: LoadedRun) -> None:
    first = generated(loaded)
    torch.manual_seed(7)
    assert pictures(generated(loaded)) == pictures(first)


def test_the_caption_the_seed_and_the_strength_count(loaded: LoadedRun) -> None:
    chosen = measured_on(loaded)
    spec = chosen.specs[0]
    plain = pictures(generated(loaded, replace(chosen, specs=(spec,))))
    for other in (
        replace(spec, seed=spec.seed + 1),
        replace(spec, denoising_strength=0.2),
        replace(spec, inputs=chosen.specs[1].inputs),
    ):
        assert pictures(generated(loaded, replace(chosen, specs=(other,)))) != plain


def test_little_strength_stays_near_the_example(loaded: LoadedRun) -> None:
    chosen = measured_on(loaded)
    spec = chosen.specs[0]
    distances = []
    assert spec.latents is not None
    encoders = loaded.context.family.load_encoders(torch.device("cpu"))
    reference = loaded.context.family.decode_latents(encoders, spec.latents[None])[0].permute(1, 2, 0).numpy()
    for strength in (0.1, 0.9):
        (found,) = generated(loaded, replace(chosen, specs=(replace(spec, denoising_strength=strength),)))
        distances.append(float(np.abs(found.picture / 127.5 - 1 - np.clip(reference, -1, 1)).mean()))
    assert distances[0] < 0.5 * distances[1]


def test_what_is_asked_of_the_model(loaded: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without the caption in one batch, all of a shape together, and a sign of life for each."""
    family = type(loaded.context.family)
    predict, sizes, beats = family.predict, [], []

    def watched(self: Any, models: Any, noisy_latents: torch.Tensor, *more: Any) -> torch.Tensor:
        sizes.append(len(noisy_latents))
        return predict(self, models, noisy_latents, *more)

    monkeypatch.setattr(family, "predict", watched)
    chosen = measured_on(loaded)
    with torch.no_grad():
        generate(loaded.context, chosen, at_once=8, alive=lambda: beats.append(1))
    shapes = [one.latents_shape for one in chosen.specs[:4]]
    counts = sorted(shapes.count(one) for one in set(shapes))
    steps = family.traits.sampling.steps
    made = round(steps * 0.6)
    assert sorted(sizes) == sorted([2] * steps + [2 * count for count in counts for _ in range(made)])
    assert len(beats) >= len(sizes) + len(chosen.specs)


def test_guidance_leads_away_from_the_empty_caption(loaded: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    family = type(loaded.context.family)

    def predict(self: Any, models: Any, noisy_latents: torch.Tensor, *more: Any) -> torch.Tensor:
        halves = zip(noisy_latents.chunk(2), (1.0, 3.0), strict=True)
        return torch.cat([torch.full_like(half, value) for half, value in halves])

    def denoise(predict: Any, process: Any, latents: torch.Tensor, noise: torch.Tensor, **how: Any) -> torch.Tensor:
        seen.append(predict(noise, torch.zeros(len(noise))))
        return latents

    monkeypatch.setattr(family, "predict", predict)
    monkeypatch.setattr(module, "denoise", denoise)
    generated(loaded)
    assert {float(one) for batch in seen for one in batch.unique()} == {1 + family.traits.sampling.guidance * 2}


@pytest.mark.parametrize(("guidance_input", "guidance"), [("", 1.0), ("guidance", 3.5)])
def test_a_distilled_base_is_sampled_in_few_steps(loaded: LoadedRun, guidance_input: str, guidance: float) -> None:
    """And without guidance, unless it takes that as an input."""
    family = copy(loaded.context.family)
    usual = SamplingDefaults(28, 3.5, guidance_input)
    family.traits = replace(family.traits, sampling=usual)
    assert sampling_of(family) == usual
    family.weights = replace(family.weights, distilled="Turbo")
    assert sampling_of(family) == SamplingDefaults(8, guidance, guidance_input)


def test_without_guidance_the_caption_alone_is_asked_for(loaded: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    family, sizes = type(loaded.context.family), []
    predict = family.predict

    def watched(self: Any, models: Any, noisy_latents: torch.Tensor, *more: Any) -> torch.Tensor:
        sizes.append(len(noisy_latents))
        return predict(self, models, noisy_latents, *more)

    chosen = measured_on(loaded)
    alone = replace(chosen, specs=[replace(chosen.specs[-1], guidance=1.0, steps=3)])
    nearly = replace(chosen, specs=[replace(chosen.specs[-1], guidance=1.0 + 1e-6, steps=3)])
    monkeypatch.setattr(family, "predict", watched)
    (found,), (expected,) = generated(loaded, alone), generated(loaded, nearly)
    assert sizes == [1, 1, 1, 2, 2, 2]
    assert np.abs(found.picture.astype(int) - expected.picture).max() <= 1


@pytest.mark.ci
def test_half_as_many_where_memory_runs_out(loaded: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = generated(loaded)
    family = type(loaded.context.family)
    predict = family.predict

    def tight(self: Any, models: Any, noisy_latents: torch.Tensor, *more: Any) -> torch.Tensor:
        if len(noisy_latents) > 2:
            raise torch.OutOfMemoryError
        return predict(self, models, noisy_latents, *more)

    monkeypatch.setattr(family, "predict", tight)
    for one, other in zip(generated(loaded), expected, strict=True):
        assert np.abs(one.picture.astype(int) - other.picture.astype(int)).max() <= 1


def test_what_is_no_number_is_seen(loaded: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "denoise", lambda predict, process, latents, noise, **how: latents * torch.nan)
    found = generated(loaded)
    assert not any(one.is_finite for one in found)
    assert all(not one.picture.any() for one in found)


FLAGS = ("", "--d 5", "--d 5 --n blue", "--d 5 --s 3", "--d 5 --l 1", "--d 5 --w 96 --h 64", "--d 5 --l 1 --n blue")


@pytest.mark.ci
def test_each_flag_of_a_prompt_counts(workshop: Workshop) -> None:
    """At a guidance of 1 the negative prompt cancels out."""
    workshop.run.root.mkdir()
    lines = tuple(f"a red ring {flags}".strip() for flags in FLAGS)
    values = {("evaluation", "every"): 2, ("evaluation", "examples"): 1, ("evaluation", "sample_prompts"): lines}
    stage(workshop.start_new(2, values))
    loaded = load(workshop.run, stop_at=2)
    found = [one.picture for one in generated(loaded)[1:]]
    assert [picture.shape for picture in found] == [(64, 64, 3)] * 5 + [(64, 96, 3), (64, 64, 3)]
    assert len({picture.tobytes() for picture in found[:6]}) == 6
    np.testing.assert_allclose(found[4], found[6], atol=2)
    alone = [spec for spec in measured_on(loaded).specs if spec.prompt == lines[2]]
    assert pictures(generated(loaded, replace(measured_on(loaded), specs=tuple(alone)))) == [found[2].tobytes()]
