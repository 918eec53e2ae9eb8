"""The progress of a run, as its folder has it: steps done, steps left, the state to continue from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lorasmith.config import RunConfig, load_run_toml
from lorasmith.errors import ConfigError, ExitCode, ModelError, NoStateError
from lorasmith.lora_files.reader import read_lora
from lorasmith.runs.events import AdapterExported, BestChosen, CheckpointSaved, RunStarted, RunStopped
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import newest_trusted, read_events, surviving
from lorasmith.runs.naming import FileNames
from lorasmith.runs.states import SavedState, damage_listed, damage_of, find_states, newest_good
from lorasmith.session.name_tables import other_file


@dataclass(frozen=True, slots=True)
class RunProgress:
    """The progress of a run."""

    done: int  # the highest step that the ledger records as saved
    stop_at: int  # of the newest start
    state: SavedState  # the newest undamaged state

    @property
    def steps_left(self) -> int:
        """The number of steps from the newest undamaged state to `stop_at`."""
        return max(0, self.stop_at - self.state.step)


def _no_run(folder: Path) -> NoStateError:
    """The error about a folder without a run; other trainers leave a LoRA, from which a new run can start."""
    try:
        files = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        newest = next(filter(_is_lora, files), None)
    except OSError:
        newest = None
    if newest is None:
        return NoStateError("no_run", folder=str(folder))
    return NoStateError("no_run_but_lora", folder=str(folder), lora=str(newest))


def _is_lora(path: Path) -> bool:
    try:
        read_lora(path)
    except ModelError:
        return False
    return True


def progress_of(run: RunFolder) -> RunProgress:
    """Reads how far the run in this folder has come.

    Raises:
        NoStateError: there is no run, or none of its states can be used.
    """
    events = surviving(read_events(run.ledger))
    started = [event for event in events if isinstance(event, RunStarted)]
    if not started and not find_states(run.root)[0]:
        raise _no_run(run.root)
    good, damaged = newest_good(run.root, most=newest_trusted(events))
    if good is None:
        raise NoStateError("no_usable_state", folder=str(run.root), problems=damage_listed(damaged))
    recorded = [event.step for event in events if isinstance(event, CheckpointSaved)]
    done = max([good.step, *recorded])
    stop_at = started[-1].stop_at if started else good.step
    return RunProgress(done, stop_at, good)


def is_all_done(run: RunFolder, config: RunConfig, step: int) -> bool:
    """Whether the export of the last step and the final evaluation are complete too: a run can die before them."""
    names = FileNames(run, config.export)
    path, other = names.last, other_file(names, config.model.family)
    events = surviving(read_events(run.ledger))
    if not path.exists() or not events or not (other is None or other.exists()):
        return path.exists() and not events
    exports = [event for event in events if isinstance(event, AdapterExported) and event.step == step]
    ends = [event for event in events if isinstance(event, RunStarted | RunStopped)]
    has_finished = bool(ends) and isinstance(ends[-1], RunStopped) and ends[-1].exit_code == ExitCode.FINISHED
    return has_finished and any(event.path == names.recorded(path) for event in exports)


def named_state(run: RunFolder, name: str) -> SavedState:
    if name == "best":
        name = str(_best_step(run))
    states, _ = find_states(run.root)
    for state in states:
        if name in (state.path.name, str(state.path), str(state.step)) or Path(name).resolve() == state.path.resolve():
            damage = damage_of(state)
            if damage is not None:
                raise NoStateError("state_damaged", path=str(state.path), damage=damage)
            return state
    raise NoStateError("state_unknown", name=name, known=", ".join(state.path.name for state in states))


def _best_step(run: RunFolder) -> int:
    """Returns the step with the lowest validation loss on held-out pictures."""
    chosen = [event.step for event in surviving(read_events(run.ledger)) if isinstance(event, BestChosen)]
    if not chosen:
        is_held_out = bool(load_run_toml(run.config).dataset.held_out)
        raise ConfigError("best_not_chosen" if is_held_out else "no_best_state")
    return chosen[-1]
