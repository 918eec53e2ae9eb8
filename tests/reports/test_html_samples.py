from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lorasmith.reading.summary import RunSummary, summary_of
from lorasmith.reports.elements import Markup
from lorasmith.reports.html_samples import MAX_ROWS, MAX_STEPS, chosen_steps, likeness, samples
from lorasmith.reports.pictures import Embedder
from lorasmith.ui.translator import Translator
from tests.reading.made_up import evaluated, started, stepped
from tests.reports.page import parsed

EN = Translator("en")


def test_each_row_goes_from_the_original_to_the_last_step(summary: RunSummary, drawn: tuple[Path, Path]) -> None:
    page = parsed(samples(summary, EN, root=drawn[0], embedder=Embedder()))
    labels = [one["alt"] for one in page.all("img")]
    assert labels[:6] == ["original", "LoRA off", "step 75", "step 150 ✓", "step 225", "step 300"]
    assert labels[-5] == "LoRA off"  # a prompt of its own has no original


def test_of_many_steps_some_are_shown_with_the_first_the_last_and_the_best(tmp_path: Path) -> None:
    events = [started(tmp_path, 40), *stepped(range(1, 41)), *(evaluated(step, tmp_path) for step in range(1, 41))]
    found = summary_of(events, [])
    found = replace(found, use=replace(found.use, step=18, loss=0.1))
    steps = chosen_steps(found)
    assert len(steps) == MAX_STEPS
    assert (steps[0], steps[-1]) == (1, 40) and 18 in steps


def test_rows_beyond_what_a_page_holds_are_counted(summary: RunSummary, tmp_path: Path) -> None:
    many = replace(summary, samples=summary.samples * 5)
    page = parsed(samples(many, EN, root=tmp_path, embedder=Embedder()))
    assert f"Rows left out: {15 - MAX_ROWS}" in page.text


def test_without_samples_it_says_so(summary: RunSummary, tmp_path: Path) -> None:
    none = replace(summary, samples=(), memorisation=replace(summary.memorisation, samples=()))
    assert "No samples were made" in parsed(samples(none, EN, root=tmp_path, embedder=Embedder())).text
    assert likeness(none, EN, root=tmp_path, embedder=Embedder()) == Markup("")


def test_a_sample_drawn_from_its_nearest_picture_is_told_apart(summary: RunSummary, drawn: tuple[Path, Path]) -> None:
    own = replace(summary.memorisation.samples[0], is_from_itself=True, baseline_similarity=None)
    changed = replace(summary, memorisation=replace(summary.memorisation, samples=(own,)))
    page = parsed(likeness(changed, EN, root=drawn[0], embedder=Embedder()))
    assert "made from this picture" in page.text
    assert len(page.all("img")) == 2
