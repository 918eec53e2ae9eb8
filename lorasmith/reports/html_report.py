"""The report as one page that stands alone: no network, no script, pictures inside. Light and dark, screen and paper.

Puts the sections into their order; each stands in `html_sections`, `html_samples` or `html_tables`.
"""

from __future__ import annotations

from datetime import datetime
from functools import cache
from pathlib import Path

from lorasmith import __version__
from lorasmith.reading.summary import RunSummary
from lorasmith.reports.charts import four_charts, more_charts
from lorasmith.reports.elements import Markup, element, joined, prose
from lorasmith.reports.html_samples import likeness, samples
from lorasmith.reports.html_sections import answer, head, losses, signs, tiles
from lorasmith.reports.html_tables import attempts, data, environment, files, settings, speed, warnings
from lorasmith.reports.pictures import Embedder
from lorasmith.reports.speech import Speech, moment
from lorasmith.reports.svg_charts import chart_figure

DOCTYPE = "<!doctype\nhtml>\n"


def html_report(summary: RunSummary, words: Speech, *, root: Path, now: datetime) -> bytes:
    """The page's bytes. `root` is the run folder, from which the paths of samples count."""
    embedder = Embedder()
    charts = [chart_figure(one, words.language) for one in (*four_charts(summary), *more_charts(summary))]
    body = [
        head(summary, words, folder=str(root)),
        answer(summary, words),
        tiles(summary, words),
        section(words.say("report.curves"), element("div", *charts, cls="charts")),
        losses(summary, words),
        samples(summary, words, root=root, embedder=embedder),
        signs(summary, words),
        likeness(summary, words, root=root, embedder=embedder),
        data(summary, words),
        settings(summary, words),
        attempts(summary, words),
        speed(summary, words),
        warnings(summary, words),
        environment(summary, words),
        files(summary, words),
    ]
    made = words.say("report.made", version=__version__, time=moment(now.timestamp()))
    page = element(
        "html",
        element(
            "head",
            Markup(part("report_head.html")),
            element("title", words.say("report.title", name=root.name)),
            element("style", Markup(part("report.css"))),
        ),
        element("body", element("main", *body), element("footer", prose(made))),
        lang=words.language,
    )
    return joined(Markup(DOCTYPE), page, Markup("\n")).encode(errors="replace")


def section(title: str, *children: str) -> Markup:
    """A part of the page with its heading."""
    return element("section", element("h2", title), *children)


@cache
def part(name: str) -> str:
    """What every page carries: style sheet, and a head that lets it load nothing."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
