"""The report as one HTML page that stands alone: no network, no script, pictures inside; light, dark, and on paper.

The page is the template `page.html.j2` with the style sheet `page.css`; here is what the template needs besides the
summary: rows of its tables, the pictures as data URIs, and filters. Everything a person typed is escaped by Jinja2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lorasmith import __version__
from lorasmith.config import RunConfig, options
from lorasmith.libraries import importing_library
from lorasmith.reading.attempts import Attempt, Happening
from lorasmith.reading.metrics import METRICS, PICTURE_METRICS
from lorasmith.reading.summary import RunSummary, Speed
from lorasmith.reports import translator
from lorasmith.reports.charts import NOT_EVALUATED, Chart, key_of, notes_of, reason_of_empty
from lorasmith.reports.levels import levels_svg
from lorasmith.reports.pictures import data_uri
from lorasmith.reports.reasons import why_empty
from lorasmith.reports.translator import (
    NOTHING,
    Translator,
    byte_size,
    duration,
    file_name,
    percent,
    setting_text,
    short,
)

if TYPE_CHECKING:
    from jinja2 import Template

MOODS = {"reached": "good", "failed": "bad", "died": "bad"}
OVER_TRAINING_MOODS = {"seen": "bad", "within_error": "notice", "not_seen": "good"}
MEMORISATION_MOODS = {"copies": "bad", "none": "good"}
HAPPENINGS = ("WorkerHung", "WorkerRestarted", "LimitRaised")  # events of the supervisor that have a sentence
MAX_PICTURES = 200  # rows; the JSON has all
MAX_SAMPLE_ROWS = 12
MAX_SAMPLE_STEPS = 6
MAX_PAIRS = 4
Facts = list[tuple[str, str]]
HERE = Path(__file__).parent


def render_page(
    summary: RunSummary,
    words: Translator,
    *,
    root: Path,
    now: datetime,
    charts: Sequence[tuple[Chart, str]],
    why_no_charts: Sequence[str] = (),
) -> bytes:
    """The page's bytes.

    Args:
        root: the run folder, which the paths of samples start from.
        charts: each chart with its SVG.
        why_no_charts: lines that stand in place of charts that could not be drawn.

    Raises:
        InputError: Jinja2 cannot be imported.
    """
    from markupsafe import Markup

    template = _template()
    page = template.render(
        summary=summary,
        say=words.say,
        warn=words.warning,
        language=words.language,
        name=root.name,
        folder=str(root),
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        embed=cache(lambda path: data_uri(root / path)),
        mood=MOODS.get(summary.ending.reason, "notice"),
        trouble=ending_lines(summary, words),
        over_training_mood=OVER_TRAINING_MOODS.get(summary.over_training.verdict, ""),
        memorisation_mood=MEMORISATION_MOODS.get(summary.memorisation.verdict, ""),
        charts=charts,
        why_no_charts=why_no_charts,
        why_no_loss=lambda name: why_empty(words.language, summary.unavailable.get(name, NOT_EVALUATED)),
        sample_steps=sample_steps(summary),
        levels_plot=Markup(levels_svg(summary.noise_levels, words.say("report.levels.title")))
        if summary.noise_levels
        else "",
        data_facts=_data_facts(summary, words),
        picture_rows=_picture_rows(summary, words),
        settings=settings_of(summary),
        change_rows=[
            (change.after_step, f"--{change.option}", setting_text(change.before), setting_text(change.now))
            for change in summary.changes
        ],
        attempt_rows=[_attempt_row(attempt, words) for attempt in summary.attempts],
        speed_facts=_speed_facts(summary, words),
        environment_facts=[(name, setting_text(value)) for name, value in summary.environment.items()],
        version=__version__,
        made_at=now.timestamp(),
    )
    return page.encode(errors="replace")


@cache
def _template() -> Template:
    with importing_library():
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, loader=FileSystemLoader(HERE), trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {
        "metrics": METRICS,
        "picture_metrics": PICTURE_METRICS,
        "known_happenings": HAPPENINGS,
        "max_rows": MAX_SAMPLE_ROWS,
        "max_pairs": MAX_PAIRS,
        "max_pictures": MAX_PICTURES,
    }
    numbers = ("short", "loss_text", "with_error", "percent", "duration", "local_time", "setting_text", "file_name")
    environment.filters |= {name: getattr(translator, name) for name in numbers}
    for function in (prose, key_of, notes_of, reason_of_empty, short_fields):
        environment.filters[function.__name__] = function
    return environment.get_template("page.html.j2")


def prose(text: str) -> str:
    """A sentence of the catalogs as HTML: what stands in backticks is code."""
    from markupsafe import Markup, escape

    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    code = Markup("<code>{}</code>").format
    return Markup("").join(code(part) if number % 2 else part for number, part in enumerate(parts))


def short_fields(happening: Happening) -> str:
    """The fields of an event that has no sentence, without its stacks of several lines."""
    return setting_text({name: value for name, value in happening.fields.items() if "\n" not in str(value)})


def ending_lines(summary: RunSummary, words: Translator) -> list[str]:
    """The error that ended the run, if an error did."""
    ending = summary.ending
    if ending.code:
        return words.error(ending.code, ending.fields)
    return words.error("worker_died", {"status": ending.status}) if ending.reason == "died" else []


def sample_steps(summary: RunSummary) -> list[int]:
    """At most MAX_SAMPLE_STEPS of the steps with samples: the first, the last, the step to use, and some between."""
    steps = [evaluation.step for evaluation in summary.curves.evaluations if evaluation.samples]
    if len(steps) <= MAX_SAMPLE_STEPS:
        return steps
    last = len(steps) - 1
    places = {round(number * last / (MAX_SAMPLE_STEPS - 1)) for number in range(MAX_SAMPLE_STEPS)}
    if summary.use.step in steps and (best := steps.index(summary.use.step)) not in places:
        places.remove(min(places - {0, last}, key=lambda place: (abs(place - best), place)))
        places.add(best)
    return [steps[place] for place in sorted(places)]


class Settings(NamedTuple):
    """The options that a run recorded, in three groups."""

    chosen: Facts  # that differ from their defaults, as they were given; of older runs, all that differ
    resolved: Facts  # that differ from their defaults and were not given
    defaults: Facts


def settings_of(summary: RunSummary) -> Settings:
    """The options that the run recorded."""
    found = Settings([], [], [])
    by_default = RunConfig().model_dump(mode="json")
    given = summary.settings.get("given")
    for option in options().values():
        section = summary.settings.get(option.section, {}) if option.section else summary.settings
        if option.section != "request" and option.field_name in section:
            value = section[option.field_name]
            is_default = value == (by_default[option.section] if option.section else by_default)[option.field_name]
            is_chosen = given is None or option.name in given
            group = found.defaults if is_default else found.chosen if is_chosen else found.resolved
            group.append((f"--{option.name}", setting_text(value)))
    return found


def _data_facts(summary: RunSummary, words: Translator) -> Facts:
    data = summary.data
    used = [picture for picture in data.pictures if picture.is_used]
    buckets = [f"{width}×{height} ({count})" for width, height, count in data.buckets]
    facts = {
        "folder": data.folder or NOTHING,
        "trained": str(len(used)),
        "held_out": str(len(data.held_out)),
        "repeats": _counted(picture.repeats for picture in used if picture.repeats is not None),
        "buckets": ", ".join(buckets) or NOTHING,
        "epochs": str(data.epoch),
    }
    if seen := data.times_seen:
        facts["seen"] = f"{min(seen)} / {short(sum(seen) / len(seen))} / {max(seen)}"
    return [(words.say(f"report.data.{name}"), value) for name, value in facts.items()]


def _counted(values: Iterable[int]) -> str:
    """Each value and how many pictures have it: `10 (24), 5 (3)`."""
    return ", ".join(f"{value} ({count})" for value, count in Counter(values).items()) or NOTHING


def _picture_rows(summary: RunSummary, words: Translator) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for picture in summary.data.pictures[:MAX_PICTURES]:
        repeats = NOTHING if picture.repeats is None else str(picture.repeats)
        bucket = "×".join(map(str, picture.bucket)) or NOTHING
        rows.append((file_name(picture.path), repeats, bucket, str(picture.times_seen)))
    held_out = words.say("report.data.held_out_row")
    return rows + [(file_name(path), NOTHING, NOTHING, held_out) for path in summary.data.held_out]


def _attempt_row(attempt: Attempt, words: Translator) -> tuple[str, ...]:
    number = str(attempt.number)
    if attempt.is_restart:
        number = words.say("report.attempt.restart", number=attempt.number)
    steps = NOTHING if attempt.last_step is None else f"{(attempt.resumed_from or 0) + 1}–{attempt.last_step}"
    ended = words.say(f"ending.{attempt.ending.reason}")
    if detail := attempt.ending.code or (attempt.ending.status if attempt.ending.reason == "died" else ""):
        ended = f"{ended} ({detail})"
    began, took = translator.local_time(attempt.began), duration(attempt.seconds)
    return number, began, steps, took, ended, str(attempt.cancelled_steps or NOTHING)


def _pace_facts(speed: Speed, words: Translator) -> dict[str, str]:
    """How fast the run computed, as far as its ledger tells."""
    facts = {}
    if speed.pictures_per_second is not None:
        facts["pictures"] = words.say("status.pictures_per_second", pictures=f"{speed.pictures_per_second:.3g}")
    if speed.flops is not None:
        facts["flops"] = words.say("status.flops", tflops=f"{speed.flops / 1e12:.3g}")
    if speed.share_of_peak is not None:
        facts["of_peak"] = percent(speed.share_of_peak)
    if speed.waited_seconds:
        facts["waiting"] = (
            f"{duration(speed.waited_seconds)} ({percent(speed.waited_seconds / speed.stepping_seconds)})"
        )
    if speed.recordings:
        facts["recordings"] = str(speed.recordings)
    return facts


def _speed_facts(summary: RunSummary, words: Translator) -> Facts:
    """Seconds and bytes; empty before the first step."""
    speed = summary.speed
    if speed.median_seconds is None or speed.mean_seconds is None or speed.slowest_seconds is None:
        return []

    def share(seconds: float) -> str:
        text = duration(seconds)
        return f"{text} ({percent(seconds / speed.wall_seconds)})" if speed.wall_seconds else text

    facts = {
        "median": duration(speed.median_seconds),
        "mean": duration(speed.mean_seconds),
        "slowest": f"{duration(speed.slowest_seconds)} ({words.say('report.at_step', step=speed.slowest_step)})",
        "wall": duration(speed.wall_seconds),
        "stepping": share(speed.stepping_seconds),
        "evaluating": share(speed.evaluating_seconds),
        "saving": share(speed.saving_seconds),
        "memory": byte_size(speed.peak_memory),
        **_pace_facts(speed, words),
    }
    return [(words.say(f"report.speed.{name}"), value) for name, value in facts.items()]
