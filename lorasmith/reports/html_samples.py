"""The pictures of the page: samples by step beside their originals, and training pictures that samples look like."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorasmith.reading.evaluations import PICTURE_METRICS
from lorasmith.reading.summary import RunSummary, SampleRow
from lorasmith.reading.verdicts import Nearest
from lorasmith.reports.elements import Markup, element
from lorasmith.reports.pictures import Embedder
from lorasmith.reports.speech import NOTHING, Speech, file_name, short

MAX_ROWS = 12
MAX_STEPS = 6
MAX_PAIRS = 4


def samples(summary: RunSummary, words: Speech, *, root: Path, embedder: Embedder) -> Markup:
    """A row a caption: the original, the LoRA off, then the LoRA by step."""
    title = element("h2", words.say("report.samples"))
    if not summary.samples:
        return element("section", title, element("p", words.say("report.no_samples"), cls="quiet"))
    steps = chosen_steps(summary)
    rows = [_row(row, steps, summary, words, root, embedder) for row in summary.samples[:MAX_ROWS]]
    notes = [element("p", words.say("report.samples_note"), cls="quiet")]
    left_out = len(summary.samples) - MAX_ROWS
    if left_out > 0:
        notes.append(element("p", words.say("report.samples_left_out", count=left_out), cls="quiet"))
    return element("section", title, *notes, *rows)


def chosen_steps(summary: RunSummary) -> list[int]:
    """At most MAX_STEPS of the steps with samples: first, last, the one to use, and some between."""
    steps = [one.step for one in summary.curves.evaluations if one.samples]
    if len(steps) <= MAX_STEPS:
        return steps
    last = len(steps) - 1
    places = {round(number * last / (MAX_STEPS - 1)) for number in range(MAX_STEPS)}
    if summary.use.step in steps and (best := steps.index(summary.use.step)) not in places:
        between = [one for one in places if one not in (0, last)]
        places.remove(min(between, key=lambda one: abs(one - best)))
        places.add(best)
    return [steps[one] for one in sorted(places)]


def _row(
    row: SampleRow, steps: list[int], summary: RunSummary, words: Speech, root: Path, embedder: Embedder
) -> Markup:
    cards = []
    if row.example is not None:
        uri = embedder.uri(root / row.example)
        cards.append(_card(uri, words.say("report.original"), file_name(row.example), words, kind="original"))
    if row.baseline is not None:
        cards.append(_sample_card(row.baseline, words.say("report.lora_off"), words, root, embedder, kind="off"))
    for step in steps:
        if step in row.by_step:
            label, kind = words.say("report.at_step", step=step), ""
            if step == summary.use.step and summary.use.loss is not None:
                label, kind = words.say("report.best_at_step", step=step), "chosen"
            cards.append(_sample_card(row.by_step[step], label, words, root, embedder, kind=kind))
    caption = row.prompt or NOTHING
    seed = "" if row.seed is None else words.say("report.seed", seed=row.seed)
    return element(
        "div",
        element("p", element("q", caption), element("span", seed, cls="quiet"), cls="prompt"),
        element("div", *cards, cls="strip"),
        cls="sample",
    )


def _sample_card(
    sample: Mapping[str, Any], label: str, words: Speech, root: Path, embedder: Embedder, *, kind: str
) -> Markup:
    numbers = " · ".join(
        words.say(f"report.short.{measure}", value=short(float(sample[measure]), digits=2))
        for measure in PICTURE_METRICS
        if sample.get(measure) is not None
    )
    return _card(embedder.uri(root / str(sample.get("path") or "")), label, numbers, words, kind=kind)


def _card(uri: str, label: str, under: str, words: Speech, *, kind: str) -> Markup:
    picture = element("img", src=uri, alt=label, loading="lazy") if uri else _gone(words)
    text = element("figcaption", element("strong", label), element("small", under))
    return element("figure", picture, text, cls=("card", kind))


def _gone(words: Speech) -> Markup:
    return element("div", words.say("report.picture_gone"), cls="gone")


def likeness(summary: RunSummary, words: Speech, *, root: Path, embedder: Embedder) -> Markup:
    """The samples most like a training picture, each beside it."""
    found = summary.memorisation.samples[:MAX_PAIRS]
    if not found:
        return Markup("")
    pairs = [_pair(one, words, root, embedder) for one in found]
    title = words.say("report.nearest", step=summary.memorisation.step or 0)
    note = element("p", words.say("report.nearest_note"), cls="quiet")
    return element("section", element("h2", title), note, element("div", *pairs, cls="pairs"))


def _pair(one: Nearest, words: Speech, root: Path, embedder: Embedder) -> Markup:
    told = words.say("report.similarity", similarity=f"{one.similarity:.3f}")
    if one.baseline_similarity is not None:
        told = words.say(
            "report.similarity_and_control",
            similarity=f"{one.similarity:.3f}",
            control=f"{one.baseline_similarity:.3f}",
        )
    own = element("small", words.say("report.from_itself")) if one.is_from_itself else ""
    return element(
        "div",
        element(
            "div",
            _card(embedder.uri(root / one.sample), words.say("report.sample"), "", words, kind=""),
            _card(
                embedder.uri(root / one.nearest),
                words.say("report.training_picture"),
                file_name(one.nearest),
                words,
                kind="original",
            ),
            cls="two",
        ),
        element("p", told, " ", own),
        cls="pair",
    )
