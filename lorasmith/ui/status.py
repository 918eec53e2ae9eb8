"""The progress of a run as a line of any width. Knows neither terminal nor events."""

from __future__ import annotations

from dataclasses import dataclass

from lorasmith.ui.layout import cells
from lorasmith.ui.translator import Translator

MIN_BAR = 10
MAX_BAR = 40


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of training at a step."""

    step: int
    stop_at: int
    loss: float
    average_loss: float
    seconds_per_step: float
    pace: str = ""  # pictures and operations in a second, as a sentence; "" where it is not to be shown

    @property
    def share(self) -> float:
        return self.step / self.stop_at


def status_line(words: Translator, progress: Progress, *, width: int | None, only_ascii: bool) -> str:
    """Returns bar and numbers; what does not fit is left out, the least needed first. Without a width: all the numbers
    and no bar.
    """
    count = words.say("status.steps", step=progress.step, stop_at=progress.stop_at)
    parts = {
        "loss": words.say("status.loss", loss=f"{progress.loss:.4f}"),
        "average": words.say("status.average", loss=f"{progress.average_loss:.4f}"),
        "speed": speed(words, progress.seconds_per_step),
        **({"pace": progress.pace} if progress.pace else {}),
        "left": words.say("status.left", time=clock((progress.stop_at - progress.step) * progress.seconds_per_step)),
    }
    if width is None:
        return "  ".join([count, *parts.values()])
    if _cells_left(width, count, parts) < MIN_BAR:
        parts.pop("pace", None)
    # The speed goes before the bar does, the bar before anything else.
    if _cells_left(width, count, parts) < MIN_BAR:
        del parts["speed"]
    for least_needed in ("average", "left", "loss"):
        if _cells_left(width, count, parts) < -1:
            del parts[least_needed]
    numbers = "  ".join([count, *parts.values()])
    left = _cells_left(width, count, parts)
    if left < MIN_BAR:
        return numbers
    return f"{bar(progress.share, min(left, MAX_BAR), only_ascii=only_ascii)} {numbers}"


def _cells_left(width: int, count: str, parts: dict[str, str]) -> int:
    """The cells left for a bar after its space; -1 where the numbers alone just fit."""
    return width - cells("  ".join([count, *parts.values()])) - 1


def bar(share: float, width: int, *, only_ascii: bool) -> str:
    """Returns `width` cells, `share` of them full; the last is full only when all is done."""
    full = min(width, int(share * width))
    done, rest = ("#", "-") if only_ascii else ("\u2501", "\u2500")
    return done * full + rest * (width - full)


def speed(words: Translator, seconds_per_step: float) -> str:
    """Returns seconds per step, or steps per second where that is the larger number."""
    if seconds_per_step <= 0:
        return words.say("status.speed_unknown")
    if seconds_per_step >= 1:
        return words.say("status.seconds_per_step", seconds=f"{seconds_per_step:.2f}")
    return words.say("status.steps_per_second", steps=f"{1 / seconds_per_step:.2f}")


def pace(words: Translator, pictures_per_second: float, flops: float | None, share: float | None) -> str:
    """Returns pictures in a second and, as far as they are known, TFLOP/s and their share of the device's peak."""
    parts = [words.say("status.pictures_per_second", pictures=f"{pictures_per_second:.3g}")]
    if flops is not None:
        parts.append(words.say("status.flops", tflops=f"{flops / 1e12:.3g}"))
    if share is not None:
        parts.append(words.say("status.of_peak", share=f"{share:.0%}"))
    return words.say("status.between").join(parts)


def clock(seconds: float) -> str:
    """Returns a duration as hours, minutes and seconds: `1:02:03`."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
