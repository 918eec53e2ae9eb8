"""Shows the events of a run as sentences. Independent of files and of the kind of screen."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorasmith.errors import ExitCode
from lorasmith.families import FAMILIES
from lorasmith.reading.fold import RunFold
from lorasmith.reading.metrics import METRICS, value_of
from lorasmith.reading.pace import pace_of, share_of_peak
from lorasmith.reports.making import ReportFiles
from lorasmith.reports.translator import loss_text
from lorasmith.runs.events import (
    AdapterExported,
    BestChosen,
    CacheProgress,
    CheckpointSaved,
    DeviceChosen,
    Evaluated,
    Event,
    GivenUp,
    LimitRaised,
    RunStarted,
    RunStopped,
    ShapesPrepared,
    StepCompleted,
    StepRepeated,
    Warned,
    WorkerEnded,
    WorkerHung,
    WorkerRestarted,
    WorkerStarted,
)
from lorasmith.runs.naming import FileNames
from lorasmith.runtime.policy import MAX_RESTARTS
from lorasmith.ui.screens import Screen
from lorasmith.ui.status import Progress, pace, speed, status_line
from lorasmith.ui.translator import Translator
from lorasmith.ui.which_run import typed

if TYPE_CHECKING:
    from lorasmith.runtime.preflight import Start

LAST_LINES = 20  # lines of the output of a worker that exited without an error message
# After these a run can continue from its newest state.
CAN_GO_ON = frozenset({ExitCode.STOPPED, ExitCode.NO_RESOURCE, ExitCode.STUCK, ExitCode.NON_FINITE, ExitCode.CRASHED})


class Display:
    """The lines of a single start on a screen; `errors` is the screen for failures."""

    def __init__(
        self, words: Translator, screen: Screen, errors: Screen, *, start: Start, command: str, verbose: bool
    ) -> None:
        self._words = words
        self._screen = screen
        self._errors = errors
        self._start = start
        self._command = command
        self._verbose = verbose
        self._begun = False
        self._ending: RunStopped | None = None
        self._export: Path | None = None
        self._step = start.first_step
        self._stop_at = start.stop_at
        self._worker: WorkerEnded | None = None
        self._given_up: GivenUp | None = None
        self._noticed = list(start.warnings)  # shown below the device, which is the first line
        self._shown_warnings: set[str] = set()  # warnings of the start, which its worker records too

    def warn(self, code: str, fields: Mapping[str, Any]) -> None:
        for line in self._words.warning(code, fields):
            self._screen.line(line, "warning")

    def show(self, event: Event, fold: RunFold | None = None) -> None:
        """Shows the next event of the run; some events have nothing to show. `fold` holds the run so far, this event
        included; it is needed from the first step on.
        """
        self._fold = fold or RunFold()
        handlers: dict[type[Event], Callable[[Any], None]] = {
            WorkerStarted: self._worker_started,
            WorkerHung: self._hung,
            WorkerRestarted: self._restarted,
            LimitRaised: self._limit_raised,
            GivenUp: self._gave_up,
            DeviceChosen: self._device,
            CacheProgress: self._caching,
            ShapesPrepared: self._preparing,
            RunStarted: self._started,
            StepCompleted: self._completed,
            StepRepeated: self._repeated,
            CheckpointSaved: self._saved,
            AdapterExported: self._exported,
            Evaluated: self._measured,
            BestChosen: self._best,
            Warned: self._warned,
            RunStopped: self._stopped,
            WorkerEnded: self._ended,
        }
        if type(event) in handlers:
            handlers[type(event)](event)

    def finish(self, exit_code: ExitCode, newest_state: Path | None, *, has_placed: bool = False) -> None:
        """Shows how the run ended, where its files are and what can be done next. Call after the screen is closed.

        Args:
            has_placed: the run folder was changed, even if no event records it."""
        self._tell_noticed()
        if exit_code == ExitCode.FINISHED:
            self._finished()
            return
        if exit_code != ExitCode.STOPPED:
            self._failed(exit_code, has_placed=has_placed)
        elif self._begun:
            self._say("run.stopped", step=self._step, stop_at=self._stop_at)
        else:
            self._say("error.stopped_before_start.text")
        if exit_code in CAN_GO_ON and newest_state is not None:
            self._say("run.newest_state", path=self._path(str(newest_state)))
            if exit_code != ExitCode.NON_FINITE:  # it would end in the same way; the error says what to change
                self._say("run.go_on", command=f"{self._command} --continue")

    def reported(self, files: ReportFiles) -> None:
        """Shows where the reports are, and which could not be made."""
        for line in report_lines(self._words, files):
            self._screen.line(line)

    def _device(self, event: DeviceChosen) -> None:
        self._say(
            "run.device",
            device=event.device,
            name=event.name,
            reason=self._words.say(f"device.{event.reason}"),
        )
        reason = self._words.say(f"precision.{event.precision_reason}")
        self._say("run.precision", precision=event.precision, reason=reason, threads=event.threads)
        self._tell_noticed()
        self._loading(event)

    def _tell_noticed(self) -> None:
        for code, fields in self._noticed:
            self._warn_once(code, fields)
        self._noticed.clear()

    def _warn_once(self, code: str, fields: Mapping[str, Any]) -> None:
        """Shows a warning once: the parent, the worker and the next worker find the same about a dataset."""
        key = f"{code} {json.dumps(fields, sort_keys=True)}"
        if key not in self._shown_warnings:
            self._shown_warnings.add(key)
            self.warn(code, fields)

    def _worker_started(self, event: WorkerStarted) -> None:
        self._ending = self._worker = None  # of the one before
        self._loading(event)

    def _loading(self, _event: Event) -> None:
        text = self._words.say("status.loading")
        self._screen.status(lambda _width, _only_ascii: text, 0.0)

    def _caching(self, event: CacheProgress) -> None:
        text = self._words.say("status.caching", done=event.done, total=event.total)
        share = event.done / event.total if event.total else 1.0
        self._screen.status(lambda _width, _only_ascii: text, share)

    def _preparing(self, event: ShapesPrepared) -> None:
        text = self._words.say(f"status.preparing_{event.execution}", done=event.done, total=event.total)
        share = event.done / event.total if event.total else 1.0
        self._screen.status(lambda _width, _only_ascii: text, share)

    def _started(self, event: RunStarted) -> None:
        self._begun = True
        self._stop_at = event.stop_at
        done = event.resumed_from or 0
        self._step = done
        is_new, owes_steps = event.resumed_from is None, event.stop_at > done
        self._say(
            "run.new" if is_new else "run.continued" if owes_steps else "run.owed_end",
            done=done,
            to_do=event.stop_at - done,
            stop_at=event.stop_at,
            pictures=len(event.examples),
            folder=self._path(str(self._start.run.root)),
        )
        if event.held_out:
            self._say("run.held_out", count=len(event.held_out))
        for option, values in event.changed.items():
            before, now = (self._words.say("run.not_set") if value is None else value for value in values)
            self._say("run.changed", option=option, before=before, now=now)

    def _completed(self, event: StepCompleted) -> None:
        self._step = event.step
        average_loss = event.loss if self._fold.newest is None else self._fold.newest.average_loss
        seconds = self._fold.seconds_per_step
        progress = Progress(event.step, self._stop_at, event.loss, average_loss, seconds, self._pace(event))

        def compose(width: int | None, only_ascii: bool) -> str:
            return status_line(self._words, progress, width=width, only_ascii=only_ascii)

        self._screen.status(compose, progress.share)
        if event.step == self._stop_at:
            self._screen.line(self._words.say("run.reached", steps=event.step), "good")

    def _pace(self, event: StepCompleted) -> str:
        """Pictures and operations in a second, with --verbose."""
        found = pace_of(event) if self._verbose else None
        if found is None:
            return ""
        share = share_of_peak(found.flops, self._fold.others)
        return pace(self._words, found.pictures_per_second, found.flops, share)

    def _repeated(self, event: StepRepeated) -> None:
        what = "twice" if event.gradient_checkpointing else event.reason
        reason = self._words.say(f"repeat.{what}", scale=event.scale or 0, micro_split=event.micro_split or 1)
        self._screen.line(self._words.say("run.repeated", step=event.step, reason=reason), "warning")

    def _saved(self, event: CheckpointSaved) -> None:
        self._say("run.saved", step=event.step, path=self._path(event.path))

    def _exported(self, event: AdapterExported) -> None:
        self._export = self._start.run.root / event.path
        self._say("run.exported", step=event.step, path=self._path(event.path))

    def _measured(self, event: Evaluated) -> None:
        shown = []
        for measure in METRICS:
            value = value_of(event, measure)
            if value is not None or measure in event.unavailable:
                number = "N/A" if value is None else loss_text(value)
                shown.append(f"{self._words.say(f'report.loss.{measure}')} {number}")
        measures = " · ".join(shown)
        if event.is_control:
            self._say("run.measured_control", measures=measures)
        else:
            self._say("run.measured", step=event.step, measures=measures)

    def _best(self, event: BestChosen) -> None:
        self._say("run.best", step=event.step, loss=loss_text(event.loss), path=self._path(event.path))

    def _warned(self, event: Warned) -> None:
        is_of_start = any(event.code == code for code, _ in self._start.warnings)
        if is_of_start or self._words.knows(f"finding.{event.code}.text"):
            self._warn_once(event.code, event.fields)
        else:
            self.warn(event.code, event.fields)

    def _stopped(self, event: RunStopped) -> None:
        self._ending = event

    def _ended(self, event: WorkerEnded) -> None:
        self._worker = event

    def _hung(self, event: WorkerHung) -> None:
        seconds = {"seconds": round(event.silent_seconds), "limit": round(event.limit_seconds)}
        said = {"step": event.step, "phase": event.phase, **seconds}
        self._screen.line(self._words.say("watched.halted" if event.is_stopped else "watched.hung", **said), "warning")
        if event.stack and (self._verbose or not self._begun):
            self._errors.line(event.stack, "quiet")  # before there is a run, no file keeps it

    def _restarted(self, event: WorkerRestarted) -> None:
        if event.after == "crashed":
            self._screen.line(self._words.say("watched.crashed", reason=event.reason), "warning")
        restarts = {"in_vain": event.in_vain, "most": MAX_RESTARTS}
        if event.step is None:
            self._say("watched.begun_again", **restarts)
        else:
            self._say("watched.restarted", step=event.step, **restarts)

    def _limit_raised(self, event: LimitRaised) -> None:
        pace = speed(self._words, event.seconds_per_step)
        self._say(
            "watched.limit_raised", speed=pace, spent=round(event.spent_seconds), limit=round(event.limit_seconds)
        )

    def _gave_up(self, event: GivenUp) -> None:
        self._given_up = event

    def _finished(self) -> None:
        run, name = self._start.run, self._start.config.export.name
        export = self._export or FileNames(run, self._start.config.export).last
        self._screen.line(self._words.say("run.finished", path=self._path(str(export))), "good")
        family = FAMILIES.get(self._start.config.model.family)  # of a pickle, this process does not know it
        in_webui = family is None or family.in_webui
        self._say("run.next_use" if in_webui else "run.next_use_comfyui", name=name)
        subsets = self._start.config.subsets()
        if words := list(filter(None, dict.fromkeys(part.config.dataset.trigger_word.strip() for part in subsets))):
            self._say("run.next_trigger", words="`, `".join(words))
        curves = typed(["tensorboard", "--logdir", self._path(str(run.tensorboard))])
        self._say("run.next_curves", command=curves, file=self._path(str(run.loss_log)))
        self._say("run.next_more", command=f"{self._command} --continue --steps 200")

    def _failed(self, exit_code: ExitCode, *, has_placed: bool) -> None:
        ending = self._ending
        if self._given_up is not None:
            code, fields = self._given_up.code, self._given_up.fields
        elif ending is None and exit_code in (ExitCode.BAD_INPUT, ExitCode.NO_RESOURCE):
            # It had an exit code but could not write its reason: only a full disk does that.
            code, fields = "disk_full", {"path": str(self._start.run.root)}
        elif ending is None:
            status = 0 if self._worker is None else self._worker.status
            code, fields = "worker_died", {"status": status, "exit_code": int(exit_code)}
        else:
            code, fields = ending.code, ending.fields
        for line in self._words.error(code, fields):
            self._errors.line(line, "bad")
        if code == "worker_died" and self._worker is not None and self._worker.output:
            self._errors.line("\n".join(self._worker.output.splitlines()[-LAST_LINES:]), "quiet")
        is_our_fault = exit_code == ExitCode.CRASHED and ending is not None
        if ending is not None and (self._verbose or (is_our_fault and not self._begun)):
            self._errors.line(ending.traceback.rstrip(), "quiet")  # no file keeps it
        elif is_our_fault:
            self._say("run.details", path=self._path(str(self._start.run.ledger)))
        if not self._begun:
            self._before_the_first_step(has_placed=has_placed)

    def _before_the_first_step(self, *, has_placed: bool) -> None:
        """The sentence about what a start without a step has left on disk."""
        if not has_placed:
            self._say("run.nothing_changed")
        elif self._start.is_new:
            self._say("run.old_one_moved", backup=self._path(str(self._start.run.backup)))
        else:
            self._say("run.settings_written")

    def _say(self, key: str, **fields: Any) -> None:
        self._screen.line(self._words.say(key, **fields))

    def _path(self, path: str) -> str:
        return shortened(Path(os.path.normpath(self._start.run.root / path)))


def report_lines(words: Translator, files: ReportFiles) -> list[str]:
    """Lines about the reports: failures first, then the page and the other files."""
    lines = []
    for code, fields in files.warnings:
        lines += words.warning(code, fields)
    return [*lines, *(words.say("report_command.made", path=shortened(path)) for path in files.made)]


def shortened(path: Path) -> str:
    """The path, relative to the current folder if that is shorter."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
