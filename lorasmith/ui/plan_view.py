"""Prints a plan as tables, on a terminal or into a file."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lorasmith.planning.estimate import ProbeResult, Unmeasured
from lorasmith.planning.plan import NOT_PROBED, ComponentPlan, RunPlan
from lorasmith.session.lanes import LaneEstimate
from lorasmith.ui.encodings import shows_everything
from lorasmith.ui.status import clock, speed
from lorasmith.ui.translator import Translator

MEBIBYTE = 2**20
LONGEST_BAR = 40  # cells


def show(words: Translator, plan: RunPlan, here: Path) -> None:
    """Prints the whole plan on stdout."""
    console = _console()
    view = _View(words, plan, here)
    if plan.is_new:
        title = words.say("plan.title_new", steps=plan.steps)
    else:
        title = words.say("plan.title_continued", steps=plan.steps, first=plan.first_step, last=plan.stop_at)
    console.print(Text(title, style="bold"))
    lanes = [_lanes(words, plan.lanes)] if plan.lanes else []
    levels = [view.levels()] if plan.noise_levels else []
    for table in (view.pictures(), view.buckets(), view.training(), *levels, *lanes, view.cost(), view.files()):
        console.print()
        console.print(table)
    console.print()
    for line, style in view.notes():
        console.print(Text(line, style=style), soft_wrap=True)
    console.print(words.say("plan.nothing_changed"))


def show_lanes(words: Translator, lanes: Iterable[LaneEstimate]) -> None:
    """Prints what each choice of settings takes, on stdout."""
    _console().print(_lanes(words, lanes))


class _View:
    def __init__(self, words: Translator, plan: RunPlan, here: Path) -> None:
        self._words = words
        self._plan = plan
        self._here = here

    def pictures(self) -> Table:
        plan = self._plan
        table = self._table("pictures", ["folder", "count", "repeats", "seen"])
        for folder in plan.folders:
            name = self._say("regularisation", folder=folder.name) if folder.is_regularisation else folder.name
            table.add_row(name, str(folder.pictures), str(folder.repeats), _times(folder.times_seen))
        table.add_section()
        table.add_row(self._row("sum"), str(plan.pictures), "", _range(*plan.times_seen))
        if plan.held_out:
            table.add_row(self._row("held_out"), str(plan.held_out), "", "0")
        return table

    def buckets(self) -> Table:
        table = self._table("buckets", ["bucket", "count", "batches"])
        for bucket in self._plan.buckets:
            table.add_row(f"{bucket.width} x {bucket.height}", str(bucket.pictures), str(bucket.batches))
        return table

    def training(self) -> Table:
        plan = self._plan
        least, most = plan.suggested_steps
        suggested = f"{least}+" if most is None else f"{least}–{most}"
        steps = str(plan.steps) if not plan.steps_assumed else self._say("steps_assumed", steps=plan.steps)
        rows = [
            (self._row("steps"), steps),
            (self._row("suggested"), self._say("suggested", steps=suggested, pictures=plan.learned_from)),
            *((self._row("layers"), self._layers(component)) for component in plan.components),
            (self._row("batch"), f"{', '.join(map(str, plan.batch_sizes))} x {plan.accumulation_steps}"),
            (self._row("epochs"), self._say("epochs", epochs=_times(plan.epochs), batches=plan.batches_per_epoch)),
            (self._row("seen"), self._say("seen", times=_range(*plan.times_seen))),
        ]
        return self._pairs("training", rows)

    def cost(self) -> Table:
        """Time, memory and disk; N/A if they were not measured."""
        plan, missing = self._plan, self._words.say("plan.missing")
        rows: list[tuple[str, str]] = []
        memory = 0
        if isinstance(plan.measured, ProbeResult):
            measured = plan.measured
            memory = measured.peak_memory
            device = f"{measured.device} ({measured.device_name}), {measured.precision}"
            rows.append((self._row("device"), device))
        if plan.time is None:
            rows.append((self._row("time"), missing))
        else:
            time = plan.time
            rows.append((self._row("time"), clock(time.total)))
            rows.append((self._row("speed"), speed(self._words, time.seconds_per_step)))
            for name in ("starting", "encoding", "steps", "saving", "evaluating"):
                rows.append((self._words.say(f"plan.time.{name}"), clock(getattr(time, name))))
        rows.append((self._row("memory"), _size(memory) if memory else missing))
        if plan.disk is None:
            rows.append((self._row("disk"), missing))
        else:
            rows.append((self._row("disk"), _size(plan.disk.total)))
            for name in ("cache", "states", "exports", "samples", "logs"):
                rows.append((self._words.say(f"plan.disk.{name}"), _size(getattr(plan.disk, name))))
        rows.append((self._row("free"), _size(plan.free_bytes)))
        return self._pairs("cost", rows)

    def levels(self) -> Table:
        """The density of the noise levels as bars."""
        table, shares = self._table("levels", ["level", "bar", "share"]), self._plan.noise_levels
        pairs = [first + second for first, second in zip(shares[::2], shares[1::2], strict=True)]
        sign = "\u2588" if shows_everything(sys.stdout) else "#"
        for number, share in enumerate(pairs):
            bar = sign * round(LONGEST_BAR * share / max(pairs))
            table.add_row(f"{number / len(pairs):.1f} - {(number + 1) / len(pairs):.1f}", bar, f"{share:.1%}")
        table.columns[1].justify = "left"
        return table

    def files(self) -> Table:
        """Patterns of the files, relative to the current folder where possible."""
        table = self._table("files", ["file"])
        for path in self._plan.files:
            table.add_row(str(Path(path).relative_to(self._here)) if Path(path).is_relative_to(self._here) else path)
        return table

    def notes(self) -> Iterable[tuple[str, str]]:
        """Yields (line, style): findings about the pictures, warnings of the run, and what was not measured."""
        plan, words = self._plan, self._words
        for finding in plan.findings:
            # What a probe noticed about prompts may be a warning.
            for number, line in enumerate(words.warning(finding.code, finding.fields)):
                yield line, "" if number else "yellow"
        for code, fields in plan.warnings:
            yield from ((line, "yellow") for line in words.warning(code, fields))
        if plan.disk is not None and plan.lacks_room:
            fields = {"needed": _size(plan.disk.total), "free": _size(plan.free_bytes)}
            yield from ((line, "yellow") for line in words.warning("plan_lacks_room", fields))
        if isinstance(plan.measured, Unmeasured) and plan.measured.code == NOT_PROBED:
            yield self._say("not_probed"), ""
        elif isinstance(plan.measured, Unmeasured):
            yield self._say("not_measured"), "yellow"
            yield from ((f"  {line}", "yellow") for line in words.error(plan.measured.code, plan.measured.fields))
        if not plan.findings and not plan.warnings:
            yield self._say("all_well"), "green"

    def _table(self, name: str, columns: list[str]) -> Table:
        return _table(self._words, name, columns)

    def _pairs(self, name: str, rows: list[tuple[str, str]]) -> Table:
        table = Table(
            title=self._words.say(f"plan.table.{name}"), title_justify="left", title_style="bold", show_header=False
        )
        for left, right in rows:
            table.add_row(left, right)
        return table

    def _layers(self, component: ComponentPlan) -> str:
        least, most = component.ranks
        ranks = str(least) if least == most else f"{least}–{most}"
        counts = {"layers": component.layers, "offered": component.offered}
        name = self._words.say(f"component.{component.name}")
        return self._say("layers", component=name, ranks=ranks, **counts)

    def _row(self, name: str) -> str:
        return self._words.say(f"plan.row.{name}")

    def _say(self, name: str, **fields: object) -> str:
        return self._words.say(f"plan.say.{name}", **fields)


def _console() -> Console:
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 200
    return console


def _table(words: Translator, name: str, columns: Iterable[str]) -> Table:
    table = Table(title=words.say(f"plan.table.{name}"), title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        text = words.say(f"plan.column.{column}")
        table.add_column(text, justify="right" if number else "left", overflow="fold")
    return table


def _lanes(words: Translator, lanes: Iterable[LaneEstimate]) -> Table:
    """The memory that each lane is estimated to take; the first that fits is used."""
    settings = ("checkpointing", "base_precision", "base_offload")
    table = _table(words, "lanes", (*settings, "weights", "activations", "encoding", "sum", "fits"))
    for found in lanes:
        sizes = (found.base + found.adapter, found.activations, found.encoding, found.total)
        table.add_row(
            found.lane.checkpointing,
            found.lane.precision,
            f"{found.lane.offload:g}",
            *(_size(size) for size in sizes),
            words.say(f"plan.say.{'fits' if found.fits else 'too_large'}"),
        )
    return table


def _times(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _range(least: float, most: float) -> str:
    return _times(least) if _times(least) == _times(most) else f"{_times(least)}–{_times(most)}"


def _size(count: int) -> str:
    if count >= 1024 * MEBIBYTE:
        return f"{count / MEBIBYTE / 1024:.1f} GiB"
    return f"{count / MEBIBYTE:.1f} MiB"
