"""The plot of the noise levels of a run as SVG, with the colours of the page. Needs no library."""

from __future__ import annotations

from collections.abc import Sequence

_WIDTH, _HEIGHT, _FOOT = 400, 120, 16  # units; the foot is for the numbers below the axis


def levels_svg(shares: Sequence[float], name: str) -> str:
    """Bars of the shares, from the picture at the left to the noise at the right; each has its numbers as a tooltip."""
    width, highest = _WIDTH / len(shares), max(shares)
    bars = []
    for number, share in enumerate(shares):
        height = _HEIGHT * share / highest
        low, high = number / len(shares), (number + 1) / len(shares)
        bars.append(
            f'<rect x="{number * width + 1:.1f}" y="{_HEIGHT - height:.1f}" width="{width - 2:.1f}" '
            f'height="{height:.1f}" style="fill:var(--line)"><title>{low:.2f}–{high:.2f}: {share:.1%}</title></rect>'
        )
    numbers = [
        f'<text x="{_WIDTH * at:.0f}" y="{_HEIGHT + _FOOT - 3}" text-anchor="{anchor}">{at:g}</text>'
        for at, anchor in ((0, "start"), (0.5, "middle"), (1, "end"))
    ]
    axis = f'<path d="M0 {_HEIGHT}H{_WIDTH}" style="stroke:var(--axis)"/>'
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT + _FOOT}" role="img" aria-label="{name}"'
    return f"<svg {box}>{''.join((*bars, axis, *numbers))}</svg>"
