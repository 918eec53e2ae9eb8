"""The states, exports and evaluations of a run: made when they are due, and all that is missing at the end.

A full disk does not stop training: a save that failed is repeated later, a step's export is left out, and only the end
waits for space, for a limited time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from lorasmith.engine.cpu import release_freed_memory
from lorasmith.engine.state import TrainState
from lorasmith.engine.step import Repeat
from lorasmith.errors import NonFiniteError, ResourceError
from lorasmith.evaluation.best import BestKeeper
from lorasmith.exporting.name_table import NameTable
from lorasmith.exporting.verify import ExportError
from lorasmith.faults import fault_point
from lorasmith.runs.events import AdapterExported, CheckpointSaved, Evaluated
from lorasmith.runs.process_files import StopFlag, monotonic
from lorasmith.runs.promotion import back_up_export
from lorasmith.runs.states import has_sha256, newest_good
from lorasmith.session.checkpoint import prune_states, save_state
from lorasmith.session.disk_full import FULL, MAX_SECONDS, DiskFullRetry
from lorasmith.session.loaded import LoadedRun
from lorasmith.session.name_tables import other_file
from lorasmith.session.recorder import Recorder
from lorasmith.session.retention import remove_outdated


@dataclass(slots=True)
class Outputs:
    """Everything that a run writes besides its ledger, and when."""

    loaded: LoadedRun
    recorder: Recorder
    best: BestKeeper
    exported: AdapterExported | None  # the newest
    numbered: dict[str, AdapterExported]  # the newest of each file, by its name
    evaluation_is_missing: bool  # of the step that the run resumes from
    saved_step: int  # of the newest state on disk; -1: none, or it would be saved with other bytes now
    saved_at: float  # monotonic seconds
    disk_full: DiskFullRetry = field(default_factory=DiskFullRetry)

    # -- when they are due ---------------------------------------------------------------------------

    def catch_up(self, state: TrainState, stop: StopFlag) -> None:
        """Makes what an earlier attempt did not live to make for the step of its last state."""
        if state.step <= self.loaded.stop_at:
            for path in self._due_exports(state.step):
                if self.exported is None or not path.exists():
                    self._export_or_warn(state, path)
        is_first = self.loaded.config.evaluation.at_first and state.step == 0
        if self.evaluation_is_missing or is_first:
            self.evaluate(state, stop)

    def save_if_due(self, state: TrainState) -> None:
        """Saves by number of steps, by time, or because an earlier save found the disk full."""
        seconds = self.loaded.config.cadence.save_minutes * 60
        is_old = 0 < seconds <= monotonic() - self.saved_at and not self.disk_full.is_waiting
        if is_old or self._due_exports(state.step) or self.disk_full.is_due():
            self._save_or_retry(state)

    def export_if_due(self, state: TrainState) -> None:
        due = self._due_exports(state.step)
        for path in due:
            self._export_or_warn(state, path)
        if due and all(path.exists() for path in due):
            self._remove_outdated(state.step)

    def evaluate_if_due(self, state: TrainState, stop: StopFlag) -> None:
        """Evaluates; not at the last step, which is evaluated when everything of it is on the disk."""
        if state.step >= self.loaded.stop_at:
            return
        postponed = self.loaded.evaluator.postponed(state.step)
        if postponed is not None:
            self.recorder.ledger.append(postponed)
        if self.loaded.evaluator.is_due(state.step):
            self.evaluate(state, stop)

    def wait_if_ledger_is_full(self, state: TrainState, stop: StopFlag) -> None:
        """Pauses training while too many lines of the ledger are kept in memory.

        Raises:
            ResourceError: the disk stayed full.
        """
        if self.recorder.ledger.holds_no_more:
            self.wait_for_disk(state, stop)

    def record_repeat(self, state: TrainState, repeat: Repeat) -> None:
        """Records a step that has to be repeated, and saves how it is split after memory ran out."""
        self.recorder.write_repeat(state.step, repeat)
        if repeat.reason == "out_of_memory":
            self.saved_step = -1  # from here on the new split decides the bytes: it must be in a state
            self._save_or_retry(state)

    # -- made now ------------------------------------------------------------------------------------

    def save(self, state: TrainState) -> None:
        """Saves a state, then removes the oldest states.

        Raises:
            NonFiniteError: the numbers of the step, or the state, are not finite.
            ResourceError: the disk is full; nothing was changed.
        """
        recorder, run, config = self.recorder, self.loaded.run, self.loaded.config
        recorder.flush()
        if state.step == self.saved_step:
            return
        with recorder.apart_from_steps():
            recorder.beat(state.step, "saving")
            recorder.ledger.sync()  # no state may be on the disk before its steps are
            began = monotonic()
            named = self.loaded.names.state(state.step, self._epoch_ended(state.step), datetime.now())
            path, sha256 = save_state(state, run, self.loaded.state_facts(state), named)
            release_freed_memory()  # the copies that were written
            self.saved_step, self.saved_at = state.step, monotonic()
            recorder.ledger.append(
                CheckpointSaved(
                    attempt=self.loaded.attempt,
                    time=time.time(),
                    step=state.step,
                    path=path.name,
                    sha256=sha256,
                    seconds=self.saved_at - began,
                )
            )
            if self.disk_full.succeeded():
                recorder.warn("room_again", step=state.step)
            with suppress(
                ResourceError
            ):  # the state is whole without its event, which waits for the space of old states
                recorder.ledger.sync()
            protect = self.best.protected | recorder.trust.protected(state, run.root)
            prune_states(run, keep=config.cadence.keep_states, protect=protect)

    def export(self, state: TrainState, path: Path) -> None:
        """Writes the LoRA and checks it.

        Raises:
            NonFiniteError: as `save`, or a number is too large for the precision of the file.
            ResourceError: the disk is full.
        """
        self.exported = self._written(state, path, None)
        self.numbered[self.exported.path] = self.exported

    def _written(self, state: TrainState, path: Path, table: NameTable | None) -> AdapterExported:
        """Writes the LoRA under the names of the table, None for its own, and records it."""
        recorder = self.recorder
        recorder.flush()
        with recorder.apart_from_steps():
            recorder.beat(state.step, "exporting")
            try:
                with state.evaluation_weights():
                    written, sha256 = self.loaded.exporter.export(state, path, stop_at=self.loaded.stop_at, table=table)
            except ExportError as error:
                if error.fields["reason"] != "not_finite":
                    raise
                raise NonFiniteError("export_too_large", step=state.step, path=path.name) from error
            exported = AdapterExported(
                attempt=self.loaded.attempt,
                time=time.time(),
                step=state.step,
                path=self.loaded.names.recorded(written),
                sha256=sha256,
            )
            recorder.ledger.append(exported)
        return exported

    def evaluate(self, state: TrainState, stop: StopFlag, *, is_end: bool = False) -> None:
        """Evaluates and chooses the best step; records nothing if a stop is requested meanwhile.

        Raises:
            NonFiniteError: as `save`.
        """
        recorder = self.recorder
        recorder.flush()
        with recorder.apart_from_steps(), state.evaluation_weights():
            events = self.loaded.evaluator.evaluate(
                state, self.loaded.context, is_end=is_end, beat=recorder.beat, stop_requested=stop.requested
            )
            for event in events:
                recorder.ledger.append(event)
                if isinstance(event, Evaluated):
                    for choice in self.best.consider(event, self.exported):
                        recorder.ledger.append(choice)
            if events:
                with suppress(ResourceError):  # the events are kept in memory, and the next save waits for them
                    recorder.ledger.sync()
                fault_point("evaluation.told")

    # -- at the end ----------------------------------------------------------------------------------

    def finish(self, state: TrainState, stop: StopFlag) -> None:
        """Saves and exports the step that the run has reached.

        Raises:
            NonFiniteError: as `save` and `export`.
            ResourceError: the disk stayed full.
        """
        self.wait_for_disk(
            state,
            stop,
            partial(self._save_at_end, state),
            partial(self._back_up_at_end, state),
            partial(self._export_at_end, state),
        )

    def wait_for_disk(self, state: TrainState, stop: StopFlag, *actions: Callable[[], None]) -> None:
        """Does the actions and writes the whole ledger to the disk; on a full disk it tries again for ten minutes.

        Raises:
            ResourceError: the disk stayed full; names the newest good state.
        """
        recorder, root = self.recorder, self.loaded.run.root
        minutes = round(MAX_SECONDS / 60)
        with recorder.apart_from_steps():
            try:
                self.disk_full.wait(
                    [*actions, recorder.ledger.sync],
                    begins=lambda: recorder.warn("end_waits", step=state.step, path=str(root), minutes=minutes),
                    alive=partial(recorder.beat, state.step, "saving"),
                    stop_requested=stop.requested,
                )
            except ResourceError as error:
                good, _ = newest_good(root)
                if error.code != FULL or good is None:
                    raise
                fields = {"step": state.step, "state": good.path.name, "saved": good.step}
                raise ResourceError("disk_stayed_full", path=error.fields["path"], **fields) from error

    def _save_at_end(self, state: TrainState) -> None:
        self.save(state)
        fault_point("end.saved")

    def _back_up_at_end(self, state: TrainState) -> None:
        if not self._has_final_export(state.step):
            for path in filter(None, (self.loaded.names.last, self._other)):
                back_up_export(self.loaded.run, path, datetime.now())
        fault_point("end.backed_up")

    def _export_at_end(self, state: TrainState) -> None:
        if self._has_final_export(state.step):
            assert self.exported is not None
            self.exported = replace(self.exported, attempt=self.loaded.attempt, time=time.time())
            self.recorder.ledger.append(self.exported)  # again, for those who follow this attempt
        else:
            if self._other is not None:
                self._written(state, self._other, self.loaded.exporter.other_table)
            self.export(state, self.loaded.names.last)  # the last: once it is there, the other is too
        fault_point("end.exported")

    def _has_final_export(self, step: int) -> bool:
        """Whether an earlier attempt has exported this step under the run's own name, and the file is unchanged."""
        exported, path = self.exported, self.loaded.names.last
        if exported is None or (exported.step, exported.path) != (step, self.loaded.names.recorded(path)):
            return False
        if self._other is not None and not self._other.exists():
            return False
        return has_sha256(path, exported.sha256)

    @property
    def _other(self) -> Path | None:
        """The second file of the last step, under other names."""
        return other_file(self.loaded.names, self.loaded.exporter.family.traits.name)

    # -- on a full disk ------------------------------------------------------------------------------

    def _save_or_retry(self, state: TrainState) -> None:
        """Saves; on a full disk training continues with the states that exist, and saving is tried again later."""
        try:
            self.save(state)
        except ResourceError as error:
            if error.code != FULL:
                raise
            if self.disk_full.failed():
                self.recorder.warn("save_waits", step=state.step, path=str(self.loaded.run.root))

    def _export_or_warn(self, state: TrainState, path: Path) -> None:
        """Exports; if the disk is full or a number is too large for the file, a warning takes its place."""
        try:
            self.export(state, path)
        except NonFiniteError as error:
            if error.code != "export_too_large":
                raise
            self.recorder.warn(error.code, **error.fields)
        except ResourceError as error:
            if error.code != FULL:
                raise
            self.recorder.warn("export_left_out", step=state.step, path=path.name)

    def _remove_outdated(self, step: int) -> None:
        loaded = self.loaded
        cadence, saves, names = loaded.config.cadence, loaded.saves, loaded.names
        for path in remove_outdated(self.numbered, step, cadence=cadence, saves=saves, names=names):
            del self.numbered[path]

    def _due_exports(self, step: int) -> list[Path]:
        """The numbered files that are made at a step."""
        names, epoch = self.loaded.names, self._epoch_ended(step)
        paths = [names.of_step(step)] if self.loaded.saves.is_due_by_steps(step) else []
        by_epoch = [] if epoch is None else [names.of_epoch(epoch, step)]
        return [*paths, *(path for path in by_epoch if path not in paths)]

    def _epoch_ended(self, step: int) -> int | None:
        """The epoch whose end is saved at a step: not the last, which is the run's own export."""
        return None if step == self.loaded.stop_at else self.loaded.saves.epoch_ended(step)
