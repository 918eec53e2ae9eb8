"""The charts of the page as inline SVG: no script, colours by class so that light and dark are the page's affair."""

from __future__ import annotations

from lorasmith.messages import tr
from lorasmith.reports.charts import Chart, Line, padded, spread, thinned, ticks, whole
from lorasmith.reports.elements import Markup, element, joined, prose
from lorasmith.reports.reasons import why_empty, why_not
from lorasmith.reports.speech import short

WIDTH, HEIGHT = 440, 236
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 28  # room around the plot
MAX_POINTS = 260
TICKS = 5


class _Scale:
    """From steps and values to places in the picture."""

    def __init__(self, chart: Chart) -> None:
        self.low, self.high = padded(*_bounds(chart))
        self.last_step = chart.last_step

    def x(self, step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / self.last_step

    def y(self, value: float) -> float:
        place = TOP + (HEIGHT - TOP - BOTTOM) * (self.high - value) / (self.high - self.low)
        return min(max(place, TOP - 4.0), HEIGHT - BOTTOM + 4.0)


def chart_figure(chart: Chart, language: str) -> Markup:
    """A figure: title, picture or the reason why there is none, and a key."""
    title = tr(language, f"chart.title.{chart.title}")
    heading = element("h3", title)
    if chart.is_empty:
        reason = why_empty(language, chart.reason)
        return element(
            "figure",
            heading,
            element("p", element("strong", tr(language, "chart.none")), element("span", prose(reason)), cls="none"),
            cls="chart",
        )
    notes = [element("p", prose(_gaps(chart, language)), cls="quiet")] if chart.gaps else []
    if changes := sorted({round(step) for line in chart.lines for step in line.changes}):
        told = tr(language, "chart.changes", steps=", ".join(map(str, changes)))
        notes.append(element("p", prose(told), cls="quiet"))
    return element("figure", heading, _svg(chart, language, title), _key(chart, language), *notes, cls="chart")


def _svg(chart: Chart, language: str, title: str) -> Markup:
    scale = _Scale(chart)
    parts = [_axes(scale)]
    if chart.control is not None:
        parts.append(_horizontal(scale.y(chart.control)))
    if chart.best_step is not None:
        at = scale.x(chart.best_step)
        parts.append(element("line", x1=at, x2=at, y1=TOP, y2=HEIGHT - BOTTOM, cls="best"))
    parts += [_curve(line, scale, language) for line in chart.lines if line.steps]
    return element("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title)


def _axes(scale: _Scale) -> Markup:
    bottom = HEIGHT - BOTTOM
    parts = []
    for value in ticks(scale.low, scale.high, TICKS):
        at = scale.y(value)
        parts.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, cls="grid"))
        parts.append(element("text", short(value), x=LEFT - 6, y=at + 3.5, text_anchor="end"))
    for step in whole(ticks(0, scale.last_step, TICKS)):
        parts.append(element("text", str(step), x=scale.x(step), y=bottom + 16, text_anchor="middle"))
    parts.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=bottom, y2=bottom, cls="axis"))
    return joined(*parts)


def _horizontal(at: float) -> Markup:
    return element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, cls="control")


def _curve(line: Line, scale: _Scale, language: str) -> Markup:
    drawn = thinned(line, MAX_POINTS)
    pairs = list(zip(drawn.steps, drawn.values, strict=True))
    parts = []
    for stretch in drawn.stretches():
        stretched = zip(stretch.steps, stretch.values, strict=True)
        places = " ".join(f"{scale.x(step):.1f},{scale.y(value):.1f}" for step, value in stretched)
        parts.append(element("polyline", points=places, cls=("line", line.kind)))
    if line.kind in ("measured", "validation") or len(pairs) == 1:
        errors = drawn.errors or (0.0,) * len(pairs)
        for (step, value), error in zip(pairs, errors, strict=True):
            parts += _dot(line, scale, (step, value, error), language)
    return joined(*parts)


def _dot(line: Line, scale: _Scale, place: tuple[float, float, float], language: str) -> list[Markup]:
    step, value, error = place
    x = scale.x(step)
    told = tr(language, "chart.at", step=round(step), value=short(value, digits=4))
    if error:
        told = tr(
            language,
            "chart.at_with_error",
            step=round(step),
            value=short(value, digits=4),
            error=short(error, digits=2),
        )
    dot = element("circle", element("title", told), cx=x, cy=scale.y(value), r=3.6, cls=("dot", line.kind))
    if not error:
        return [dot]
    ends = scale.y(value - error), scale.y(value + error)
    bars = [element("line", x1=x, x2=x, y1=ends[0], y2=ends[1], cls=("error", line.kind))]
    bars += [element("line", x1=x - 3.5, x2=x + 3.5, y1=end, y2=end, cls=("error", line.kind)) for end in ends]
    return [*bars, dot]


def _key(chart: Chart, language: str) -> Markup:
    entries = [(line.kind, tr(language, f"chart.{chart.word_of(line)}")) for line in chart.lines if line.steps]
    if chart.control is not None:
        key = "chart.control_validation" if chart.name == "total" else "chart.control"
        entries.append(("control", tr(language, key)))
    if chart.best_step is not None:
        entries.append(("best", tr(language, "chart.best", step=chart.best_step)))
    return element(
        "figcaption", *(element("span", element("i", cls=("sign", kind)), text, cls="entry") for kind, text in entries)
    )


def _gaps(chart: Chart, language: str) -> str:
    steps = ", ".join(str(step) for step, _ in chart.gaps[:8]) + (" …" if len(chart.gaps) > 8 else "")
    return tr(language, "chart.gaps", steps=steps, reason=why_not(language, chart.gaps[-1][1]))


def _bounds(chart: Chart) -> tuple[float, float]:
    """All of it, but for single steps that lie far above: those end at the upper edge."""
    low, high = chart.bounds()
    current = next((line for line in chart.lines if line.kind == "current"), None)
    if current is None or len(current.values) < 20:
        return low, high
    rest = [value for line in chart.lines if line is not current for value in line.values]
    kept = max([spread(current.values, 0.99), *rest, chart.control or low])
    return (low, kept + 0.15 * (kept - low)) if high > kept + 0.5 * (kept - low) else (low, high)
