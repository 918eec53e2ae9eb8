"""What the page says first: how it went, which step to use, and what the curves mean. Codes in, sentences out."""

from __future__ import annotations

from lorasmith.reading.evaluations import METRICS
from lorasmith.reading.statistics import MetricSummary
from lorasmith.reading.summary import TOTAL, RunSummary
from lorasmith.reports.charts import NOT_EVALUATED
from lorasmith.reports.elements import Markup, element, joined, prose
from lorasmith.reports.reasons import why_empty
from lorasmith.reports.speech import NOTHING, Speech, clock, measured, moment, share, short

MOODS = {"reached": "good", "asked": "notice", "failed": "bad", "died": "bad", "unknown": "notice"}
OVER_TRAINING_MOODS = {"seen": "bad", "within_error": "notice", "not_seen": "good"}
MEMORISATION_MOODS = {"copies": "bad", "none": "good"}


def head(summary: RunSummary, words: Speech, *, folder: str) -> Markup:
    """Title, how it ended, where and when."""
    ending = summary.ending
    mood = "good" if summary.is_finished and ending.reason == "reached" else MOODS.get(ending.reason, "notice")
    about = [folder, words.say("report.span", began=moment(summary.began), ended=moment(summary.ended))]
    model = summary.settings.get("model", {}).get("base_model", "")
    if model:
        about.insert(0, words.say("report.base_model", name=str(model)))
    steps = words.say("report.steps_done", done=summary.done, stop_at=summary.stop_at or 0)
    return element(
        "header",
        element("h1", words.say("report.head")),
        element(
            "p",
            element("span", words.say(f"ending.{ending.reason}"), cls=("badge", mood)),
            element("strong", steps),
            cls="outcome",
        ),
        *[element("p", prose(line), cls="trouble") for line in trouble(summary, words)],
        *[element("p", line, cls="quiet") for line in about],
    )


def trouble(summary: RunSummary, words: Speech) -> list[str]:
    """What ended it, where that was no wish."""
    ending = summary.ending
    if ending.code:
        return words.error(ending.code, ending.fields)
    return words.error("worker_died", {"status": ending.status}) if ending.reason == "died" else []


def answer(summary: RunSummary, words: Speech) -> Markup:
    """Which step to use, and why."""
    use = summary.use
    said = words.say(f"use.{use.reason}", step=use.step or 0, last_step=use.last_step or 0)
    lines = [element("p", said, cls="verdict")]
    if use.path:
        lines.append(element("p", element("code", use.path), cls="file"))
    if use.loss is not None:
        lines.append(element("p", _compared(summary, words)))
        if use.not_distinguishable:
            steps = ", ".join(map(str, use.not_distinguishable))
            lines.append(element("p", words.say("report.equal_steps", steps=steps)))
        if use.against_baseline != "unknown":
            lines.append(element("p", words.say(f"against_control.{use.against_baseline}", control=_control(summary))))
    elif use.path and not summary.data.held_out:
        lines.append(element("p", prose(words.say("use.hint")), cls="quiet"))
    return element("section", element("h2", words.say("report.use")), *lines, cls="answer")


def _compared(summary: RunSummary, words: Speech) -> str:
    use = summary.use
    best = _with_error(use.loss, use.standard_error)
    if use.step == use.last_step:
        text = words.say("report.validation_of_best", loss=best)
    else:
        text = words.say(
            "report.validation_of_both",
            loss=best,
            last=_with_error(use.last_loss, use.last_standard_error),
            last_step=use.last_step,
            difference=_with_error(use.difference, use.difference_error),
        )
    return text


def _with_error(value: float | None, error: float | None) -> str:
    return short(value, digits=4) if error is None else f"{short(value, digits=4)} ± {short(error, digits=2)}"


def _control(summary: RunSummary) -> str:
    return short(summary.losses["validation"].baseline, digits=4)


def tiles(summary: RunSummary, words: Speech) -> Markup:
    """The numbers that are asked for first."""
    total = summary.losses[TOTAL]
    shown = [(words.say("report.tile.total"), measured(total.final), _trend(total, words))]
    for measure in METRICS:
        one = summary.losses[measure]
        if one.final is not None:
            under = words.say("report.tile.of_control", share=share(one.share_of_baseline)) if one.baseline else ""
            shown.append((loss_name(summary, measure, words), measured(one.final), under))
    seconds = summary.speed.median_seconds
    seen = summary.data.times_seen
    whole = words.say("report.tile.whole", time=clock(summary.speed.wall_seconds))
    shown += [
        (words.say("report.tile.speed"), NOTHING if seconds is None else clock(seconds), whole),
        (
            words.say("report.tile.pictures"),
            str(len(seen)),
            words.say("report.tile.seen", times=short(sum(seen) / len(seen))) if seen else "",
        ),
    ]
    boxes = [
        element("div", element("dt", name), element("dd", value, element("small", more))) for name, value, more in shown
    ]
    return element("dl", *boxes, cls="tiles")


def _trend(series: MetricSummary, words: Speech) -> str:
    return words.say(f"report.trend.{series.trend}")


def loss_name(summary: RunSummary, measure: str, words: Speech) -> str:
    """The name of a loss; a validation loss on trained pictures is called so."""
    if measure == "validation" and summary.validation_is_held_out is False:
        return words.say("report.validation_on_trained")
    return words.say(f"report.loss.{measure}")


def losses(summary: RunSummary, words: Speech) -> Markup:
    """Every loss in a row of numbers."""
    columns = ("loss", "first", "final", "least", "mean", "control", "of_control", "trend")
    header = element("tr", *(element("th", words.say(f"report.column.{name}"), scope="col") for name in columns))
    rows = [_loss_row(summary, name, words) for name in (TOTAL, *METRICS)]
    table = element(
        "div", element("table", element("thead", header), element("tbody", *rows), cls="numbers"), cls="wide"
    )
    notes = [element("p", words.say("report.losses_note"), cls="quiet")]
    return element("section", element("h2", words.say("report.losses")), table, *notes)


def _loss_row(summary: RunSummary, name: str, words: Speech) -> Markup:
    one = summary.losses[name]
    title = element("th", loss_name(summary, name, words), scope="row")
    if one.final is None:
        reason = why_empty(words.language, summary.unavailable.get(name, NOT_EVALUATED))
        return element(
            "tr", title, element("td", prose(words.say("report.not_available", reason=reason)), colspan=7, cls="left")
        )
    least = f"{measured(one.least)} ({words.say('report.at_step', step=one.least_step)})"
    cells = [measured(one.first), measured(one.final), least, measured(one.mean), measured(one.baseline)]
    cells.append(share(one.share_of_baseline))
    return element("tr", title, *(element("td", cell) for cell in cells), element("td", _trend(one, words)))


def signs(summary: RunSummary, words: Speech) -> Markup:
    """Over-training and memorisation, said plainly."""
    over, copied = summary.over_training, summary.memorisation
    fields = {
        "best_step": over.best_step or 0,
        "last_step": over.last_step or 0,
        "rise": short(over.rise, digits=2),
        "error": short(over.error, digits=2),
        "fall": short(over.fall, digits=2),
    }
    entries = [
        (
            words.say("report.over_training"),
            words.say(f"over_training.{over.verdict}", **fields),
            OVER_TRAINING_MOODS.get(over.verdict, ""),
        ),
        (
            words.say("report.memorisation"),
            words.say(f"memorisation.{copied.verdict}"),
            MEMORISATION_MOODS.get(copied.verdict, ""),
        ),
    ]
    rows = [
        element("li", element("strong", name), element("span", said), cls=("sign-line", mood))
        for name, said, mood in entries
    ]
    return element("section", element("h2", words.say("report.signs")), joined(element("ul", *rows, cls="signs")))
