"""The last run as one screen: what happened in a line, what is wrong, the losses, the curve, the files, what is next.

Draws facts; finds none. Everything it says it also says without colour and in ASCII.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.style import Style
from rich.table import Table
from rich.text import Text

from lorasmith.reports.reasons import why_not
from lorasmith.ui.chart import chart
from lorasmith.ui.last_run import Finding, LastRun
from lorasmith.ui.layout import cells, wrapped
from lorasmith.ui.measures import Measure
from lorasmith.ui.status import bar, clock, speed
from lorasmith.ui.translator import Translator

MAX_WIDTH = 120
MIN_CURVE = 44  # cells for a curve beside the table; narrower, it goes below
MAX_FINDINGS = 6
GAP = 2
BAR = 30
COLUMNS = ("newest", "first", "lowest", "control", "trend")
GIVEN_UP = ("first", "lowest", "control", "trend", "newest")  # in this order where the window is narrow
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
# What can go on from its newest state.
CAN_GO_ON = ("stopped", "failed", "died")


class RunView:
    """Fits itself to the console it is printed on."""

    def __init__(self, words: Translator, facts: LastRun, *, train_command: str, here: Path) -> None:
        self._words = words
        self._facts = facts
        self._train_command = train_command
        self._here = here

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(options.max_width, MAX_WIDTH)
        only_ascii = options.ascii_only or console.legacy_windows
        parts: list[RenderableType] = [self._headline(width)]
        if self._facts.starts:
            parts.append(Text("\n".join(wrapped(self._steps(width, only_ascii), width))))
        parts += self._findings(width)
        if self._facts.starts:
            parts += ["", *self._losses_and_curve(console, width, only_ascii), *self._notes(width), ""]
            parts.append(self._rest(width))
        yield Group(*parts)

    def _say(self, key: str, **fields: Any) -> str:
        return self._words.say(key, **fields)

    def _headline(self, width: int) -> Text:
        facts = self._facts
        code = facts.beat.phase if facts.beat is not None else "loading"
        phase = self._say(f"logs.phase.{code}") if self._words.knows(f"logs.phase.{code}") else code
        text = self._say(
            f"logs.standing.{facts.standing}",
            folder=self._path(facts.run.root),
            done=facts.steps.done,
            asked=facts.steps.asked,
            phase=phase,
        )
        style = Style(bold=True, color=MOODS.get(facts.standing, "red"))
        return Text("\n".join(wrapped(text, width)), style=style)

    def _steps(self, width: int, only_ascii: bool) -> str:
        facts = self._facts
        share = facts.steps.done / facts.steps.asked if facts.steps.asked else 1.0
        parts = [bar(min(1.0, share), min(BAR, width // 3), only_ascii=only_ascii)]
        parts.append(self._say("logs.steps", done=facts.steps.done, asked=facts.steps.asked))
        if facts.seconds_left is not None:
            parts.append(self._words.say("status.left", time=clock(facts.seconds_left)))
        if facts.steps.resumed_from:
            done, asked = facts.steps.start_done, facts.steps.start_asked
            parts.append(self._say("logs.this_start", done=done, asked=asked, begun_at=facts.steps.resumed_from))
        return "  ".join(parts)

    def _findings(self, width: int) -> list[RenderableType]:
        found = self._facts.findings
        parts: list[RenderableType] = []
        for one in found[:MAX_FINDINGS]:
            style = "red" if one.kind == "error" else "yellow"
            lines = [line for sentence in self._sentences(one) for line in wrapped(sentence, width)]
            parts.append(Text("\n".join(lines), style=style))
        if len(found) > MAX_FINDINGS:
            parts.append(Text(self._words.say("message.more_problems", count=len(found) - MAX_FINDINGS)))
        return parts

    def _sentences(self, finding: Finding) -> list[str]:
        fields = finding.fields
        if "path" in fields:
            fields = {**fields, "path": self._path(Path(fields["path"]))}
        tell = self._words.error if finding.kind == "error" else self._words.warning
        return tell(finding.code, fields)

    # -- the losses --------------------------------------------------------------------------------

    def _losses_and_curve(self, console: Console, width: int, only_ascii: bool) -> list[RenderableType]:
        """Side by side where there is room, so that all of it is on one screen."""
        columns = list(COLUMNS)
        losses = self._losses(columns)
        while _cells_of(console, losses) > width and len(columns) > 1:
            columns.remove(next(one for one in GIVEN_UP if one in columns))
            losses = self._losses(columns)
        room = width - _cells_of(console, losses) - GAP
        if room < MIN_CURVE:
            return [losses, "", *self._curve(width, only_ascii)]
        both = Table.grid(padding=(0, GAP, 0, 0))
        both.add_row(losses, Group(*self._curve(room, only_ascii)))
        return [both]

    def _losses(self, columns: list[str]) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        table.add_column(self._say("logs.column.loss"), no_wrap=True)
        for name in columns:
            table.add_column(
                self._say(f"logs.column.{name}"), justify="left" if name == "trend" else "right", no_wrap=True
            )
        for name, measure in self._facts.measures.items():
            if name == "validation" and measure.unavailable and not measure.points and measure.control is None:
                continue  # its sentence says it below, where one is known
            texts = self._cells(measure)
            table.add_row(self._name(name, measure), *(texts[column] for column in columns))
        return table

    def _name(self, name: str, measure: Measure) -> str:
        mark = "*" if name == "validation" and measure.is_held_out is False else ""
        return self._say(f"logs.loss.{name}") + mark

    def _cells(self, measure: Measure) -> dict[str, str]:
        texts = dict.fromkeys(COLUMNS, DASH) | {"control": _number(measure.control)}
        if measure.newest is None:
            return texts | {"newest": self._say("logs.na")}
        texts["newest"] = _number(measure.newest)
        if measure.standard_error is not None:
            texts["newest"] += f" +-{measure.standard_error:.4f}"
        texts["first"] = _number(measure.first)
        texts["lowest"] = self._say("logs.lowest_at", value=_number(measure.lowest), step=measure.lowest_step)
        if measure.trend != "too_few":
            texts["trend"] = self._say(f"logs.trend.{measure.trend}")
        return texts

    def _notes(self, width: int) -> list[RenderableType]:
        """Why there is no number, each reason once; and on what validation was measured where that is not obvious."""
        names: dict[str, list[str]] = {}
        for name, measure in self._facts.measures.items():
            if measure.newest is None:
                names.setdefault(self._reason(measure.unavailable), []).append(self._say(f"logs.loss.{name}"))
        lines = []
        for reason, which in names.items():
            text = self._say("logs.na_because", losses=self._say("logs.list").join(which), reason=reason)
            lines += wrapped(text, width)
        if self._facts.measures["validation"].is_held_out is False:
            lines += wrapped(self._say("logs.on_trained_pictures"), width)
        return [Text("\n".join(lines), style="dim")] if lines else []

    def _reason(self, code: str) -> str:
        if self._words.knows(f"logs.unavailable.{code}"):
            return self._say(f"logs.unavailable.{code}")
        return why_not(self._words.language, code)

    def _curve(self, width: int, only_ascii: bool) -> list[RenderableType]:
        lines = chart(self._facts.curve, width=width, only_ascii=only_ascii)
        return [Text(self._say("logs.curve"), style="bold", no_wrap=True), Text("\n".join(lines))] if lines else []

    # -- the rest ----------------------------------------------------------------------------------

    def _rest(self, width: int) -> Text:
        rows = [row for row in [*self._numbers(), *self._files(), *self._next()] if row[1]]
        left = max(cells(name) for name, _ in rows) + 2
        lines = []
        for name, value in rows:
            texts = wrapped(value, max(20, width - left))
            lines.append(name + " " * (left - cells(name)) + texts[0])
            lines += [" " * left + text for text in texts[1:]]
        return Text("\n".join(lines))

    def _numbers(self) -> list[tuple[str, str]]:
        facts = self._facts
        lr = self._say("logs.list").join(
            f"{value:g}" if len(facts.lr) == 1 else f"{name} {value:g}" for name, value in facts.lr.items()
        )
        pace = speed(self._words, facts.seconds_per_step) if facts.seconds_per_step else ""
        if pace:
            pace = self._say("logs.speed_of", speed=pace, device=facts.device, time=clock(facts.training_seconds))
        times = ""
        if facts.began is not None:
            newest = facts.began if facts.newest is None else facts.newest
            times = self._say("logs.times", began=_moment(facts.began), newest=_moment(newest))
        extra = []
        if facts.steps.repeated:
            extra.append(self._say("logs.repeated", count=facts.steps.repeated))
        if facts.steps.cancelled:
            extra.append(self._say("logs.cancelled", count=facts.steps.cancelled))
        if facts.starts > 1 or facts.restarts or extra:
            extra.insert(0, self._say("logs.starts_of", starts=facts.starts, restarts=facts.restarts))
        return [
            (self._say("logs.row.lr"), lr),
            (self._say("logs.row.speed"), pace),
            (self._say("logs.row.times"), times),
            (self._say("logs.row.starts"), self._say("logs.list").join(extra)),
        ]

    def _files(self) -> list[tuple[str, str]]:
        files = self._facts.files
        lora = ""
        if files.lora is not None:
            megabytes = f"{files.lora_bytes / MEGABYTE:.1f}"
            lora = self._say(
                "logs.lora_of", path=self._path(files.lora), megabytes=megabytes, step=files.lora_step or "?"
            )
        steps = ""
        if files.step_loras:
            count, newest = len(files.step_loras), self._path(files.step_loras[-1])
            steps = self._say("logs.count_newest", count=count, newest=newest)
        states = ""
        if files.states:
            newest = self._path(files.states[0].path)
            states = self._say("logs.states_of", count=len(files.states), step=files.states[0].step, path=newest)
        best, chosen = "", self._facts.best
        if chosen is not None:
            best = self._say(
                "logs.best_of",
                step=chosen.step,
                loss=f"{chosen.loss:.4f}",
                error="" if chosen.standard_error is None else f" +-{_number(chosen.standard_error)}",
                path=self._path(self._facts.run.root / chosen.path),
            )
        reports = ""
        if files.reports:
            reports = self._say("logs.count_newest", count=len(files.reports), newest=self._path(files.reports[0]))
        logs = []
        if files.tensorboard is not None:
            logs.append(self._say("logs.tensorboard_at", path=self._path(files.tensorboard)))
        if files.loss_log is not None:
            logs.append(self._say("logs.table_at", path=self._path(files.loss_log)))
        return [
            (self._say("logs.row.lora"), lora),
            (self._say("logs.row.best"), best),
            (self._say("logs.row.step_loras"), steps),
            (self._say("logs.row.states"), states),
            (self._say("logs.row.samples"), "" if files.samples is None else self._path(files.samples)),
            (self._say("logs.row.logs"), self._say("logs.list").join(logs)),
            (self._say("logs.row.reports"), reports),
        ]

    def _next(self) -> list[tuple[str, str]]:
        facts = self._facts
        if facts.standing in CAN_GO_ON and facts.files.states:
            return [(self._say("logs.row.next"), f"`{self._train_command} --continue`")]
        return []

    def _path(self, path: Path) -> str:
        """As short as it can be from where the person is."""
        return str(path.relative_to(self._here)) if path.is_relative_to(self._here) else str(path)


def progress_line(words: Translator, facts: LastRun) -> str:
    """Where it stands in one line, for a file or a pipe."""
    parts = [words.say("logs.steps", done=facts.steps.done, asked=facts.steps.asked)] if facts.starts else []
    if facts.standing != "running":
        parts.append(words.say(f"logs.short.{facts.standing}"))
    total, average = facts.measures["total"].newest, facts.measures["average"].newest
    if total is not None and average is not None:
        parts.append(words.say("status.loss", loss=_number(total)))
        parts.append(words.say("status.average", loss=_number(average)))
    if facts.seconds_left is not None:
        parts.append(words.say("status.left", time=clock(facts.seconds_left)))
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
