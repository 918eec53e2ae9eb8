"""Examples become inputs: each file is read once, and nothing that encodes stays loaded."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from lorasmith.data import cache
from lorasmith.data.files import read_whole
from tests.end_to_end.workshop import Workshop, load, stage


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_a_run_reads_each_cached_file_once_and_holds_text_as_the_denoiser_sees_it(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, precision: str, dtype: torch.dtype
) -> None:
    values = {("evaluation", "every"): 2, ("dataset", "hold_out"): 1, ("model", "precision"): precision}
    stage(workshop.start_new(4, values))
    load(workshop.run, stop_at=4)  # fills the cache
    reads: Counter[Path] = Counter()

    def counted(path: Path, *, most: int) -> bytes:
        reads[path] += 1
        return read_whole(path, most=most)

    monkeypatch.setattr(cache, "read_whole", counted)
    found = load(workshop.run, stop_at=4)
    assert set(reads.values()) == {1}
    measured_on = found.evaluator.measured_on
    assert measured_on is not None
    held = [cached.inputs for cached in found.batches.cached]
    held += [measured_on.empty_caption, *(spec.inputs for spec in measured_on.specs)]
    assert {inputs["prompt_embeds"].dtype for inputs in held} == {dtype}
    assert {cached.latents.dtype for cached in found.batches.cached} == {torch.float32}


@pytest.mark.parametrize(("trains_text", "inputs"), [(False, {"prompt_embeds"}), (True, {"input_ids"})])
def test_a_trained_text_encoder_gets_tokens_and_the_other_encoders_are_gone(
    workshop: Workshop, trains_text: bool, inputs: set[str]
) -> None:
    workshop.run.root.mkdir()
    stage(workshop.start_new(4, {("adapter", "train_text_encoder"): trains_text}))
    loaded = load(workshop.run, stop_at=4)
    assert set(loaded.context.models) == ({"denoiser", "text_encoder"} if trains_text else {"denoiser"})
    assert set(loaded.batches.at(1, 0)[1].inputs) == {"latents", *inputs}


def test_text_encoders_may_be_kept_in_less_memory(workshop: Workshop) -> None:
    """What they make is cached beside what they make as they are published, and differs little from it."""

    def embeds(form: str) -> list[torch.Tensor]:
        stage(workshop.start_new(4, {("model", "text_encoder_precision"): form, ("model", "precision"): "fp32"}))
        found = load(workshop.run, stop_at=4).batches.cached
        shutil.rmtree(workshop.run.staging)
        return [cached.inputs["prompt_embeds"] for cached in found]

    published, small, again = embeds("auto"), embeds("int8"), embeds("auto")
    for plain, rounded, same in zip(published, small, again, strict=True):
        assert torch.equal(plain, same)
        assert 0 < float((rounded - plain).norm() / plain.norm()) < 0.05
