"""The page's tables: pictures, settings, starts, speed, warnings, environment, files. Codes in, sentences out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lorasmith.config import options
from lorasmith.reading.attempts import Attempt, Happening
from lorasmith.reading.summary import FileRecord, RunSummary
from lorasmith.reports.elements import Markup, element, joined, prose
from lorasmith.reports.speech import NOTHING, Speech, clock, file_name, moment, plain, share, short, size

HAPPENED = ("WorkerHung", "WorkerRestarted", "LimitRaised")  # events of the supervisor that there are words for
MAX_PICTURES = 200  # rows; the JSON has them all
Row = Sequence[str]


def data(summary: RunSummary, words: Speech) -> Markup:
    """Pictures, repeats, buckets, how often each was seen."""
    found = summary.data
    used = [one for one in found.pictures if one.is_used]
    seen = found.times_seen
    facts = [
        (words.say("report.data.folder"), found.folder or NOTHING),
        (words.say("report.data.trained"), str(len(used))),
        (words.say("report.data.held_out"), str(len(found.held_out))),
        (words.say("report.data.repeats"), _counted(str(one.repeats) for one in used if one.repeats is not None)),
        (words.say("report.data.buckets"), _buckets(summary)),
        (words.say("report.data.epochs"), str(found.epoch)),
    ]
    if seen:
        spread = f"{min(seen)} / {short(sum(seen) / len(seen))} / {max(seen)}"
        facts.append((words.say("report.data.seen"), spread))
    rows = [
        (
            file_name(one.path),
            NOTHING if one.repeats is None else str(one.repeats),
            "×".join(map(str, one.bucket)) or NOTHING,
            str(one.times_seen),
        )
        for one in found.pictures[:MAX_PICTURES]
    ]
    rows += [(file_name(path), NOTHING, NOTHING, words.say("report.data.held_out_row")) for path in found.held_out]
    columns = [words.say(f"report.data.column.{name}") for name in ("picture", "repeats", "bucket", "seen")]
    more = []
    if rows:
        more.append(folded(words.say("report.data.each"), _table(columns, rows)))
    if len(found.pictures) > MAX_PICTURES:
        more.append(
            element("p", words.say("report.data.left_out", count=len(found.pictures) - MAX_PICTURES), cls="quiet")
        )
    return element("section", element("h2", words.say("report.data.title")), _facts(facts), *more)


def _counted(values: Iterable[str]) -> str:
    """`10 (24), 5 (3)`: a value and how many have it."""
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return ", ".join(f"{value} ({count})" for value, count in counts.items()) or NOTHING


def _buckets(summary: RunSummary) -> str:
    found = [f"{width}×{height} ({count})" for width, height, count in summary.data.buckets]
    return ", ".join(found) or NOTHING


def settings(summary: RunSummary, words: Speech) -> Markup:
    """What was asked for; what differs from the default stands out."""
    rows: list[tuple[str, str]] = []
    plain_rows: list[tuple[str, str]] = []
    for name, value, is_default in flat_settings(summary):
        (plain_rows if is_default else rows).append((f"--{name}", plain(value)))
    parts = [element("p", words.say("report.settings.chosen"), cls="quiet"), _facts(rows)] if rows else []
    if plain_rows:
        parts.append(folded(words.say("report.settings.defaults"), _facts(plain_rows)))
    if summary.changes:
        columns = [words.say(f"report.settings.{name}") for name in ("after_step", "option", "before", "now")]
        table = [(str(one.after_step), f"--{one.option}", plain(one.before), plain(one.now)) for one in summary.changes]
        parts += [element("h3", words.say("report.settings.changed")), _table(columns, table)]
    if not parts:
        parts.append(element("p", words.say("report.settings.none"), cls="quiet"))
    return element("section", element("h2", words.say("report.settings.title")), *parts)


def flat_settings(summary: RunSummary) -> list[tuple[str, object, bool]]:
    """(option, value, whether it is the default) of every option the run recorded."""
    found: list[tuple[str, object, bool]] = []
    for one in options().values():
        held = summary.settings.get(one.section, {}) if one.section else summary.settings
        if one.section != "request" and one.field_name in held:
            value, default = held[one.field_name], one.field.default
            is_default = value == (list(default) if isinstance(default, tuple) else default)
            found.append((one.name, value, is_default))
    return found


def attempts(summary: RunSummary, words: Speech) -> Markup:
    """Every start, how it ended, what it cost."""
    columns = [
        words.say(f"report.attempt.{name}") for name in ("number", "began", "steps", "took", "ended", "cancelled")
    ]
    rows = [_attempt_row(one, words) for one in summary.attempts]
    note = words.say("report.attempt.count", starts=len(summary.attempts), interruptions=summary.interruptions)
    happened = [_happening(one, happening, words) for one in summary.attempts for happening in one.happenings]
    happened += [_output(one, words) for one in summary.attempts if one.ending.reason == "died" and one.ending.output]
    repeated = []
    if summary.repeated_steps:
        repeated.append(element("p", words.say("report.attempt.repeated", count=summary.repeated_steps)))
    table = [_table(columns, rows)] if rows else []
    return element(
        "section", element("h2", words.say("report.attempt.title")), element("p", note), *table, *repeated, *happened
    )


def _attempt_row(one: Attempt, words: Speech) -> Row:
    first = 0 if one.resumed_from is None else one.resumed_from
    steps = NOTHING if one.last_step is None else f"{first + 1}–{one.last_step}"
    ended = words.say(f"ending.{one.ending.reason}")
    if one.ending.code:
        ended = f"{ended} ({one.ending.code})"
    elif one.ending.reason == "died":
        ended = f"{ended} ({one.ending.status})"
    number = words.say("report.attempt.restart", number=one.number) if one.is_restart else str(one.number)
    return number, moment(one.began), steps, clock(one.seconds), ended, str(one.cancelled_steps or NOTHING)


def _happening(attempt: Attempt, one: Happening, words: Speech) -> Markup:
    """What the supervisor wrote down; a stack in its own block."""
    lines = {name: value for name, value in one.fields.items() if "\n" not in str(value)}
    told = plain(lines) if one.kind not in HAPPENED else words.say(f"report.happened.{one.kind}", **one.fields)
    about = words.say("report.attempt.happened", number=attempt.number, time=moment(one.time))
    stacks = [str(value) for value in one.fields.values() if "\n" in str(value)]
    kind = element("strong", about if one.kind in HAPPENED else f"{about} {one.kind}")
    return joined(element("p", kind, " ", prose(told)), *(element("pre", text) for text in stacks))


def _output(one: Attempt, words: Speech) -> Markup:
    """The last a worker printed that died without a word."""
    title = words.say("report.attempt.output", number=one.number)
    return joined(element("p", element("strong", title)), element("pre", one.ending.output))


def speed(summary: RunSummary, words: Speech) -> Markup:
    """Seconds and bytes."""
    found = summary.speed
    if not found.steps:
        return Markup("")
    busy = found.wall_seconds or None
    facts = [
        (words.say("report.speed.median"), clock(found.median_seconds or 0.0)),
        (words.say("report.speed.mean"), clock(found.mean_seconds or 0.0)),
        (
            words.say("report.speed.slowest"),
            f"{clock(found.slowest_seconds or 0.0)} ({words.say('report.at_step', step=found.slowest_step)})",
        ),
        (words.say("report.speed.wall"), clock(found.wall_seconds)),
    ]
    parts = (
        ("stepping", found.stepping_seconds),
        ("evaluating", found.evaluating_seconds),
        ("saving", found.saving_seconds),
    )
    for name, seconds in parts:
        part = f" ({share(seconds / busy)})" if busy else ""
        facts.append((words.say(f"report.speed.{name}"), f"{clock(seconds)}{part}"))
    facts.append((words.say("report.speed.memory"), size(found.peak_memory)))
    return element("section", element("h2", words.say("report.speed.title")), _facts(facts))


def warnings(summary: RunSummary, words: Speech) -> Markup:
    """What was said on the way."""
    told = [element("li", prose(" ".join(words.warning(one.code, one.fields)))) for one in summary.warnings]
    if not told:
        return Markup("")
    return element("section", element("h2", words.say("report.warnings")), element("ul", *told))


def environment(summary: RunSummary, words: Speech) -> Markup:
    """What the bytes depend on besides the settings."""
    facts = [(name, plain(value)) for name, value in summary.environment.items()]
    if not facts:
        return Markup("")
    return element("section", element("h2", words.say("report.environment")), _facts(facts))


def files(summary: RunSummary, words: Speech) -> Markup:
    """Every file with its SHA-256."""
    if not summary.files:
        return element(
            "section",
            element("h2", words.say("report.file.title")),
            element("p", words.say("report.file.none"), cls="quiet"),
        )
    columns = [words.say(f"report.file.{name}") for name in ("path", "kind", "step", "sha256")]
    rows = [
        element(
            "tr",
            element("td", element("code", one.path), *_gone(one, words), cls="left"),
            element("td", words.say(f"report.file.kind_{one.kind}"), cls="left"),
            element("td", str(one.step)),
            element("td", element("code", one.sha256, cls="hash"), cls="left"),
        )
        for one in summary.files
    ]
    note = element("p", prose(words.say("report.file.note")), cls="quiet")
    return element("section", element("h2", words.say("report.file.title")), note, _table(columns, rows))


def _gone(one: FileRecord, words: Speech) -> list[Markup]:
    return [element("small", words.say("report.file.gone"), cls="quiet")] if one.is_there is False else []


def folded(title: str, *children: str) -> Markup:
    """Something long, closed until it is asked for; open on paper."""
    return element("details", element("summary", title), *children)


def _facts(facts: Iterable[tuple[str, str]]) -> Markup:
    pairs = [element("div", element("dt", name), element("dd", value)) for name, value in facts]
    return element("dl", *pairs, cls="facts")


def _table(columns: Sequence[str], rows: Sequence[Row | Markup]) -> Markup:
    head = element("tr", *(element("th", name, scope="col") for name in columns))
    body = [
        one if isinstance(one, Markup) else element("tr", *(element("td", cell, cls="left") for cell in one))
        for one in rows
    ]
    return element("div", element("table", element("thead", head), element("tbody", *body)), cls="wide")
