"""Prints what was measured with each batch size, as a table."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from lorasmith.planning.estimate import ProbeResult, Unmeasured
from lorasmith.planning.speed import NO_MEMORY, Trial
from lorasmith.ui.translator import Translator

GIBIBYTE = 2**30
COLUMNS = ("batch", "pictures", "step", "memory", "rate", "peak")


def show(words: Translator, trials: Sequence[Trial]) -> None:
    """Prints the table, and what its last column is a share of."""
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False, width=200)
    table = Table(title=words.say("plan.speed.title"), title_justify="left", title_style="bold")
    for name in COLUMNS:
        table.add_column(words.say(f"plan.speed.{name}"), justify="right")
    for trial in trials:
        table.add_row(*_row(words, trial))
    console.print(table)
    for line in _notes(words, trials):
        console.print(line, soft_wrap=True)


def _row(words: Translator, trial: Trial) -> list[str]:
    measured, missing = trial.measured, words.say("plan.missing")
    if isinstance(measured, Unmeasured):
        text = words.say("plan.speed.no_memory") if measured == NO_MEMORY else missing
        return [str(trial.batch_size), text, *[missing] * (len(COLUMNS) - 2)]
    return [
        str(trial.batch_size),
        f"{trial.pictures_per_second:.3g}",
        f"{measured.step_seconds:.3g} s",
        f"{measured.peak_memory / GIBIBYTE:.1f} GiB" if measured.peak_memory else missing,
        missing if trial.flops is None else f"{trial.flops / 1e12:.3g} TFLOP/s",
        missing if trial.share_of_peak is None else f"{trial.share_of_peak:.0%}",
    ]


def _notes(words: Translator, trials: Sequence[Trial]) -> list[str]:
    measured = [trial.measured for trial in trials if isinstance(trial.measured, ProbeResult)]
    lines = []
    if measured:
        newest = measured[-1]
        kind = "stated" if newest.peak_flops else "measured"
        rate = f"{(newest.peak_flops or newest.matrix_flops) / 1e12:.3g}"
        device = f"{newest.device} ({newest.device_name}), {newest.precision}"
        lines.append(words.say(f"plan.speed.{kind}", device=device, rate=rate))
    for trial in trials:
        if isinstance(trial.measured, Unmeasured) and trial.measured != NO_MEMORY:
            lines += words.error(trial.measured.code, trial.measured.fields)
    return [*lines, words.say("plan.speed.unchanged")]
