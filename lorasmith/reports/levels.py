"""The plot of the noise levels of a run as SVG, with the colours of the page. Needs no library."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, tostring

_WIDTH, _HEIGHT, _FOOT = 400, 120, 16  # units; the foot is for the numbers below the axis


def levels_svg(shares: Sequence[float], name: str) -> str:
    """Bars of the shares, from the picture at the left to the noise at the right; each has its numbers as a tooltip."""
    box = {"viewBox": f"0 0 {_WIDTH} {_HEIGHT + _FOOT}", "role": "img", "aria-label": name}
    svg, width, highest = Element("svg", box), _WIDTH / len(shares), max(shares)
    for number, share in enumerate(shares):
        height = _HEIGHT * share / highest
        places = {"x": number * width + 1, "y": _HEIGHT - height, "width": width - 2, "height": height}
        bar = SubElement(svg, "rect", {key: f"{value:.1f}" for key, value in places.items()}, style="fill:var(--line)")
        low, high = number / len(shares), (number + 1) / len(shares)
        SubElement(bar, "title").text = f"{low:.2f}–{high:.2f}: {share:.1%}"
    SubElement(svg, "path", {"d": f"M0 {_HEIGHT}H{_WIDTH}", "style": "stroke:var(--axis)"})
    for at, anchor in ((0, "start"), (0.5, "middle"), (1, "end")):
        place = {"x": f"{_WIDTH * at:.0f}", "y": f"{_HEIGHT + _FOOT - 3}", "text-anchor": anchor}
        SubElement(svg, "text", place).text = f"{at:g}"
    return tostring(svg, encoding="unicode")
