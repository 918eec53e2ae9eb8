"""Warnings about captions that are cut, a start that learned nothing, and numbers that the file does not hold."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lorasmith.config import RunConfig
from lorasmith.config.sample_prompts import sample_prompt
from lorasmith.data.buckets import Cutting
from lorasmith.data.folder import PictureFolder, scan
from lorasmith.diffusion.sampling import SamplingDefaults
from lorasmith.session.notices import caption_notices, export_notices, prompt_notices
from tests.data.drawing import put_picture
from tests.end_to_end.workshop import Values, Workshop

OF_OUTCOME = ("nothing_trained", "export_zeros")


def notices(workshop: Workshop, values: Values) -> dict[str, dict[str, object]]:
    return {one.code: one.fields for one in workshop.new(2, values).warned if one.code in OF_OUTCOME}


def test_a_rate_of_nothing_trains_nothing(workshop: Workshop) -> None:
    assert notices(workshop, {("optimizer", "lr"): 0.0}) == {"nothing_trained": {"steps": 2, "lr": 0.0}}
    again = [one.code for one in workshop.go_on(1).warned]
    assert again == ["nothing_trained"]
    assert [one.code for one in workshop.go_on(1, {("optimizer", "lr"): 1e-2}).warned] == []


@pytest.mark.parametrize(("precision", "zero"), [("fp16", True), ("fp32", False)])
def test_numbers_too_small_for_the_file(workshop: Workshop, precision: str, zero: bool) -> None:
    found = notices(workshop, {("optimizer", "lr"): 1e-9, ("export", "save_precision"): precision})
    assert set(found) == ({"export_zeros"} if zero else set())
    if zero:
        fields = found["export_zeros"]
        assert fields["precision"] == "float16"
        assert fields["count"] == workshop_matrices(workshop) // 2  # the up matrices, which begin at 0


def workshop_matrices(workshop: Workshop) -> int:
    return len(workshop.adapter())


def test_a_matrix_that_was_zero_before_is_not_counted() -> None:
    tensors = {"a": torch.zeros(2, 2), "b": torch.full((2, 2), 1e-9), "c": torch.ones(2, 2), "d": torch.tensor(1e-9)}
    assert export_notices(tensors, torch.float16) == [("export_zeros", {"count": 1, "all": 4, "precision": "float16"})]
    assert export_notices(tensors, torch.bfloat16) == []


class ThreeWords:
    """A family that sees three tags."""

    traits = SimpleNamespace(sampling=SamplingDefaults(steps=2, guidance=2.0), reads_english_only=True)
    weights = SimpleNamespace(distilled="")
    caption_tokens = 3

    def first_unseen_tag(self, caption: str) -> str:
        return "".join(caption.split(", ")[3:4])


def found(folder: Path, *, prompts: tuple[str, ...] = (), weighted: bool = False) -> list[tuple[str, dict[str, Any]]]:
    values: Values = {("dataset", "folder"): str(folder), ("evaluation", "sample_prompts"): prompts}
    config = RunConfig().with_values({**values, ("model", "weighted_captions"): weighted})
    seen = scan(PictureFolder(folder), Cutting(64, 8), trigger_word="sks", skip_bad=False, check_pixels=False)
    return caption_notices(config, ThreeWords(), seen.examples)


def test_captions_with_their_trigger_word_and_prompts(tmp_path: Path) -> None:
    for name, words in (("a", "one, two, three"), ("b", "one, two"), ("c", "one, two, 3, 4")):
        put_picture(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(words)
    assert found(tmp_path, prompts=("short", "1, 2, 3, lost")) == [
        ("captions_cut", {"count": 2, "files": ["a.png", "c.png"], "limit": 3, "tag": "three"}),
        ("prompts_cut", {"count": 1, "limit": 3, "tag": "lost"}),
    ]


def test_brackets_as_in_prompts(tmp_path: Path) -> None:
    """Without weights in captions the backslash is read; with them it stands for the bracket."""
    captions = {"a": r"saber \(fate\)", "b": "saber (fate)", "c": r"one\two", "d": r"x\)", "e": r"\[y\]"}
    for name, words in captions.items():
        put_picture(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(words)
    assert found(tmp_path) == [("brackets_escaped", {"count": 2, "files": ["a.png", "d.png"]})]
    prompts = (r"saber \(fate\) --w 64", r"a cat --n \(x\)", "saber (fate)", r"\[y\]")
    assert found(tmp_path, prompts=prompts)[1:] == [("prompts_escaped", {"count": 2})]
    assert found(tmp_path, prompts=prompts, weighted=True) == []


def test_captions_in_a_script_that_is_not_read(tmp_path: Path) -> None:
    captions = {"a": "a 貓", "b": "café 1girl ＡＢ", "c": "рыба", "d": "smile (´・ω・`) Д", "e": "ねこ"}
    for name, words in captions.items():
        put_picture(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(words, encoding="utf-8")
    expected = {"count": 3, "files": ["a.png", "c.png", "e.png"], "text": "sks, a 貓"}
    assert found(tmp_path) == [("captions_not_english", expected)]


def test_nothing_where_all_is_seen(tmp_path: Path) -> None:
    put_picture(tmp_path / "a.png")
    assert found(tmp_path, prompts=("a, b, c",)) == []


@pytest.mark.parametrize(
    ("line", "distilled", "guided", "unguided"),
    [
        ("a cat", [], [], []),
        ("a cat --n x", ["negative_of_distilled"], [], ["negative_without_guidance"]),
        ("a cat --n x --l 3", ["negative_of_distilled"], [], []),
        ("a cat --n x --l 1", ["negative_of_distilled"], ["negative_without_guidance"], ["negative_without_guidance"]),
        ("a cat --g 3", [], ["--g 3"], ["--g 3"]),
        ("a cat --g 3 --l 1", [], ["--g 3"], ["--g 3"]),
        ("a cat --g 3 --l 4", ["--l 4"], ["--g 3"], ["--g 3"]),
    ],
)
def test_flags_of_prompts_without_effect(
    line: str, distilled: list[str], guided: list[str], unguided: list[str]
) -> None:
    """For a model that takes guidance as an input, one that is guided, and one that is not unless asked."""
    for expected, guidance, name in ((distilled, 3.5, "guidance"), (guided, 4.0, ""), (unguided, 1.0, "")):
        found = prompt_notices([sample_prompt(line)], SamplingDefaults(2, guidance, name))
        assert [fields.get("flags", code) for code, fields in found] == expected


def test_the_guidance_of_a_sample() -> None:
    distilled, guided = SamplingDefaults(2, 3.5, "guidance"), SamplingDefaults(2, 4.0)
    assert [distilled.scale(*given) for given in ((None, None), (2, None), (1, 3), (None, 3))] == [3.5, 2, 3, 3]
    assert [guided.scale(*given) for given in ((None, None), (2, None), (1, 3), (None, 3))] == [4, 2, 1, 4]
