"""The last run as one screen: what happened in a line, what is wrong, the losses, the curve, the files, what is next.

Draws a RunStatus and reads nothing itself. The screen needs neither colour nor anything but ASCII.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.style import Style
from rich.table import Table
from rich.text import Text

from lorasmith.reading.metrics import VALIDATION, error_of, is_held_out
from lorasmith.reading.status import Notice, RunStatus
from lorasmith.reports.reasons import why_not
from lorasmith.ui.chart import chart
from lorasmith.ui.layout import cells, wrapped
from lorasmith.ui.status import bar, clock, speed
from lorasmith.ui.translator import Translator

MAX_WIDTH = 120
MIN_CURVE = 44  # cells for a curve beside the table; narrower, it goes below
MAX_NOTICES = 6
GAP = 2
BAR = 30
COLUMNS = ("newest", "first", "lowest", "control", "trend")
LEFT_OUT = ("first", "lowest", "control", "trend", "newest")  # in this order where the window is narrow
DASH = "-"
MOODS: dict[str, str | None] = {
    "finished": "green",
    "running": "cyan",
    "loading": "cyan",
    "ending": "cyan",
    "stopped": "yellow",
    "none": None,
}
MEGABYTE = 1024 * 1024
# Ends after which a run can continue from its newest state.
CAN_GO_ON = ("stopped", "failed", "died")


class RunView:
    """The screen of a status; it fits itself to the console that prints it."""

    def __init__(self, words: Translator, status: RunStatus, *, train_command: str, here: Path) -> None:
        self._words = words
        self._status = status
        self._summary = status.summary
        self._train_command = train_command
        self._here = here

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(options.max_width, MAX_WIDTH)
        only_ascii = options.ascii_only or console.legacy_windows
        parts: list[RenderableType] = [self._headline(width)]
        if self._status.starts:
            parts.append(Text("\n".join(wrapped(self._steps(width, only_ascii), width))))
        parts += self._notices(width)
        if self._status.starts:
            parts += ["", *self._losses_and_curve(console, width, only_ascii), *self._notes(width), ""]
            parts.append(self._rest(width))
        yield Group(*parts)

    def _say(self, key: str, **fields: Any) -> str:
        return self._words.say(key, **fields)

    def _headline(self, width: int) -> Text:
        status = self._status
        text = self._say(
            f"logs.standing.{status.standing}",
            folder=self._path(status.run.root),
            done=self._summary.done,
            asked=self._summary.stop_at or 0,
            phase=status.beat.phase if status.beat is not None else "loading",
        )
        style = Style(bold=True, color=MOODS.get(status.standing, "red"))
        return Text("\n".join(wrapped(text, width)), style=style)

    def _steps(self, width: int, only_ascii: bool) -> str:
        status, done, stop_at = self._status, self._summary.done, self._summary.stop_at or 0
        share = done / stop_at if stop_at else 1.0
        parts = [bar(min(1.0, share), min(BAR, width // 3), only_ascii=only_ascii)]
        parts.append(self._say("logs.steps", done=done, asked=stop_at))
        if status.seconds_left is not None:
            parts.append(self._words.say("status.left", time=clock(status.seconds_left)))
        if status.resumed_from:
            asked = max(0, self._summary.asked_steps or 0)
            parts.append(
                self._say("logs.this_start", done=status.start_done, asked=asked, begun_at=status.resumed_from)
            )
        return "  ".join(parts)

    def _notices(self, width: int) -> list[RenderableType]:
        notices = self._status.notices
        parts: list[RenderableType] = []
        for notice in notices[:MAX_NOTICES]:
            style = "red" if notice.kind == "error" else "yellow"
            lines = [line for sentence in self._sentences(notice) for line in wrapped(sentence, width)]
            parts.append(Text("\n".join(lines), style=style))
        if len(notices) > MAX_NOTICES:
            parts.append(Text(self._words.say("message.more_problems", count=len(notices) - MAX_NOTICES)))
        return parts

    def _sentences(self, notice: Notice) -> list[str]:
        fields = notice.fields
        if "path" in fields:
            fields = {**fields, "path": self._path(Path(fields["path"]))}
        sentences = self._words.error if notice.kind == "error" else self._words.warning
        return sentences(notice.code, fields)

    # -- the losses --------------------------------------------------------------------------------

    def _losses_and_curve(self, console: Console, width: int, only_ascii: bool) -> list[RenderableType]:
        """The table and the curve, side by side if the window is wide enough."""
        columns = list(COLUMNS)
        losses = self._losses(columns)
        while _cells_of(console, losses) > width and len(columns) > 1:
            columns.remove(next(name for name in LEFT_OUT if name in columns))
            losses = self._losses(columns)
        left = width - _cells_of(console, losses) - GAP
        if left < MIN_CURVE:
            return [losses, "", *self._curve(width, only_ascii)]
        both = Table.grid(padding=(0, GAP, 0, 0))
        both.add_row(losses, Group(*self._curve(left, only_ascii)))
        return [both]

    def _losses(self, columns: list[str]) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        table.add_column(self._say("logs.column.loss"), no_wrap=True)
        for name in columns:
            table.add_column(
                self._say(f"logs.column.{name}"), justify="left" if name == "trend" else "right", no_wrap=True
            )
        for name, metric in self._status.metrics.items():
            if name == VALIDATION and not metric.count and metric.baseline is None:
                continue  # the reason stands below the table
            texts = self._cells(name)
            table.add_row(self._name(name), *(texts[column] for column in columns))
        return table

    def _name(self, name: str) -> str:
        mark = "*" if name == VALIDATION and self._is_on_trained_pictures else ""
        return self._say(f"logs.loss.{name}") + mark

    @property
    def _is_on_trained_pictures(self) -> bool:
        validated = self._status.newest_validation
        return validated is not None and not is_held_out(validated)

    def _cells(self, name: str) -> dict[str, str]:
        metric = self._status.metrics[name]
        texts = dict.fromkeys(COLUMNS, DASH) | {"control": _number(metric.baseline)}
        if metric.final is None:
            return texts | {"newest": self._say("logs.na")}
        texts["newest"] = _number(metric.final)
        validated = self._status.newest_validation if name == VALIDATION else None
        error = None if validated is None else error_of(validated)
        if error is not None:
            texts["newest"] += f" +-{error:.4f}"
        texts["first"] = _number(metric.first)
        texts["lowest"] = self._say("logs.lowest_at", value=_number(metric.least), step=metric.least_step)
        if metric.trend != "too_few":
            texts["trend"] = self._say(f"logs.trend.{metric.trend}")
        return texts

    def _notes(self, width: int) -> list[RenderableType]:
        """Why there is no number, each reason once; and on what validation was measured where that is not obvious."""
        names: dict[str, list[str]] = {}
        for name, code in self._status.unavailable.items():
            names.setdefault(self._reason(code), []).append(self._say(f"logs.loss.{name}"))
        lines = []
        for reason, which in names.items():
            text = self._say("logs.na_because", losses=self._say("logs.list").join(which), reason=reason)
            lines += wrapped(text, width)
        if self._is_on_trained_pictures:
            lines += wrapped(self._say("logs.on_trained_pictures"), width)
        return [Text("\n".join(lines), style="dim")] if lines else []

    def _reason(self, code: str) -> str:
        if self._words.knows(f"logs.unavailable.{code}"):
            return self._say(f"logs.unavailable.{code}")
        return why_not(self._words.language, code)

    def _curve(self, width: int, only_ascii: bool) -> list[RenderableType]:
        lines = chart(
            [(point.step, point.average_loss) for point in self._summary.curves.points],
            width=width,
            only_ascii=only_ascii,
        )
        return [Text(self._say("logs.curve"), style="bold", no_wrap=True), Text("\n".join(lines))] if lines else []

    # -- the rest ----------------------------------------------------------------------------------

    def _rest(self, width: int) -> Text:
        rows = [(self._say(f"logs.row.{name}"), value) for name, value in (*self._numbers(), *self._files()) if value]
        left = max(cells(name) for name, _ in rows) + 2
        lines = []
        for name, value in rows:
            texts = wrapped(value, max(20, width - left))
            lines.append(name + " " * (left - cells(name)) + texts[0])
            lines += [" " * left + text for text in texts[1:]]
        return Text("\n".join(lines))

    def _numbers(self) -> Iterator[tuple[str, str]]:
        status, summary, newest = self._status, self._summary, self._status.newest
        rates = {} if newest is None else newest.lr
        yield "lr", self._listed(f"{lr:g}" if len(rates) == 1 else f"{name} {lr:g}" for name, lr in rates.items())
        if status.seconds_per_step:
            pace, time = speed(self._words, status.seconds_per_step), clock(summary.speed.stepping_seconds)
            yield "speed", self._say("logs.speed_of", speed=pace, device=status.device, time=time)
        if status.start is not None:
            times = [_moment(event.time) for event in (status.start, newest or status.start)]
            yield "times", self._say("logs.times", began=times[0], newest=times[1])
        extra = []
        if summary.repeated_steps:
            extra.append(self._say("logs.repeated", count=summary.repeated_steps))
        if summary.cancelled_steps:
            extra.append(self._say("logs.cancelled", count=summary.cancelled_steps))
        if status.starts > 1 or summary.restarts or extra:
            extra.insert(0, self._say("logs.starts_of", starts=status.starts, restarts=summary.restarts))
        yield "starts", self._listed(extra)

    def _files(self) -> Iterator[tuple[str, str]]:
        files, best = self._status.files, self._summary.curves.best
        if files.lora is not None:
            megabytes, step = f"{files.lora_bytes / MEGABYTE:.1f}", files.lora_step or "?"
            yield "lora", self._say("logs.lora_of", path=self._path(files.lora), megabytes=megabytes, step=step)
        if best is not None:
            path = self._path(Path(os.path.normpath(self._status.run.root / best.path)))
            error = "" if best.standard_error is None else f" +-{_number(best.standard_error)}"
            yield "best", self._say("logs.best_of", step=best.step, loss=f"{best.loss:.4f}", error=error, path=path)
        yield "step_loras", self._count_and_newest(files.step_loras[::-1])
        if files.states:
            newest = files.states[0]
            path = self._path(newest.path)
            yield "states", self._say("logs.states_of", count=len(files.states), step=newest.step, path=path)
        if files.samples is not None:
            yield "samples", self._path(files.samples)
        logs = []
        if files.tensorboard is not None:
            logs.append(self._say("logs.tensorboard_at", path=self._path(files.tensorboard)))
        if files.loss_log is not None:
            logs.append(self._say("logs.table_at", path=self._path(files.loss_log)))
        yield "logs", self._listed(logs)
        pages = [path for path in files.reports if path.suffix == ".html"]  # each with a JSON and a PNG
        yield "reports", self._count_and_newest(pages or files.reports)
        if self._status.standing in CAN_GO_ON and files.states:
            yield "next", f"`{self._train_command} --continue`"

    def _listed(self, texts: Iterable[str]) -> str:
        return self._say("logs.list").join(texts)

    def _count_and_newest(self, paths: Sequence[Path]) -> str:
        return self._say("logs.count_newest", count=len(paths), newest=self._path(paths[0])) if paths else ""

    def _path(self, path: Path) -> str:
        """The path from the person's folder, where it lies in it."""
        return str(path.relative_to(self._here)) if path.is_relative_to(self._here) else str(path)


def progress_line(words: Translator, status: RunStatus) -> str:
    """The status in one line, for a file or a pipe."""
    summary, newest = status.summary, status.newest
    parts = [words.say("logs.steps", done=summary.done, asked=summary.stop_at)] if status.starts else []
    if status.standing != "running":
        parts.append(words.say(f"logs.short.{status.standing}"))
    if newest is not None:
        parts.append(words.say("status.loss", loss=_number(newest.loss)))
        parts.append(words.say("status.average", loss=_number(newest.average_loss)))
    if status.seconds_left is not None:
        parts.append(words.say("status.left", time=clock(status.seconds_left)))
    return "  ".join(parts)


def _cells_of(console: Console, table: Table) -> int:
    """The width it would have in a window without end."""
    return console.measure(table, options=console.options.update(width=500)).maximum


def _number(value: float | None) -> str:
    if value is None:
        return DASH
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.3g}"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
