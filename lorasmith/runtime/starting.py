"""What a start would do, worked out and checked before anything is written. Knows no torch: it answers at once.

Every InputError that can be seen without reading tensors is raised here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorasmith.config import Request, RunConfig, load_run_toml, options
from lorasmith.data.names import extension_of, readable
from lorasmith.data.order import split_held_out
from lorasmith.data.seen import encoded
from lorasmith.engine.lr_schedules import lr_factor_at
from lorasmith.errors import ConfigError, ExitCode, ModelError, NoStateError, ResumeError
from lorasmith.families.locate import expanded, is_there
from lorasmith.families.lora_files import LoraShape
from lorasmith.families.weights import check_clip_skip
from lorasmith.inputs import base_weights, check_init_from, check_names, notices, scan_for, steps_of_epochs
from lorasmith.runs.events import AdapterExported, BestChosen, CheckpointSaved, RunStarted, RunStopped
from lorasmith.runs.layout import RunFolder, run_at
from lorasmith.runs.ledger import newest_trusted, read_events, surviving
from lorasmith.runs.states import SavedState, damage_listed, damage_of, find_states, newest_good
from lorasmith.runtime.moved import found_again, lines_about_places
from lorasmith.runtime.start import Start

LR_TOLERANCE = 0.01  # a smaller share is no jump

Values = Mapping[tuple[str, str], Any]
Warnings = tuple[tuple[str, dict[str, Any]], ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run stands."""

    done: int  # the highest step recorded as saved
    target: int  # of its newest start
    state: SavedState  # the newest whole one

    @property
    def owed(self) -> int:
        """Steps to the target from the state that can be used."""
        return max(0, self.target - self.state.step)


def new_run(values: Values, request: Request, *, state_prefix: str, here: Path) -> Start:
    """The start of a new run.

    Raises:
        InputError: of any kind; nothing was written.
    """
    config = RunConfig().with_values({**values, ("export", "state_prefix"): state_prefix})
    run = run_at(here, request.output)
    _check_settings(config, request)
    _check_folders(run, config, here)
    config, taken = _shaped_by_start(config, values, check_init_from(config, here), here)
    weights = base_weights(config, here)
    check_clip_skip(weights, config.model.clip_skip)
    config = config.with_values(
        {
            ("dataset", "resolution"): config.dataset.resolved_resolution(weights.resolution),
            ("dataset", "folder"): str((here / config.dataset.folder).resolve()),
            ("model", "base_model"): _remembered(config.model.base_model, here),
            ("model", "family"): weights.family,
            ("machine", "project"): _project(run, here),
            ("adapter", "alpha"): config.adapter.resolved_alpha,
            ("adapter", "init_from"): _named_path(config.adapter.init_from, here),
            ("evaluation", "clip_model"): _named_path(config.evaluation.clip_model, here),
        }
    )
    found = scan_for(config, weights, check_pixels=True)
    pictures = [(one.image_sha256, one.repeats) for one in found.examples]
    held_out = split_held_out(pictures, config.dataset.hold_out, config.seed)
    config = config.with_values({("dataset", "held_out"): tuple(sorted(held_out))})
    if request.steps is None and request.epochs is None:
        raise ConfigError("steps_unnamed")
    stop_at = request.steps or steps_of_epochs(config, found, request.epochs or 0)
    warnings = (*taken, *notices(config, found, stop_at))
    seen = encoded(found.seen)
    return Start(run, config, stop_at, is_new=True, first_step=0, warnings=warnings, seen=seen)


def _shaped_by_start(
    config: RunConfig, values: Values, start: LoraShape | None, here: Path
) -> tuple[RunConfig, Warnings]:
    """With the rank and alpha of --init-from, where no rank was asked for; and the line that says so."""
    if start is None or start.rank is None or ("adapter", "rank") in values:
        return config, ()
    alpha = config.adapter.alpha or start.alpha
    config = config.with_values({("adapter", "rank"): start.rank, ("adapter", "alpha"): alpha})
    path = str(here / config.adapter.init_from)
    fields = {"path": path, "rank": start.rank, "alpha": config.adapter.resolved_alpha}
    return config, (("init_from_shape_taken", fields),)


def standing(run: RunFolder) -> Standing:
    """Where the run in this folder stands.

    Raises:
        NoStateError: there is no run, or none of its states can be used.
    """
    events = surviving(read_events(run.ledger))
    started = [event for event in events if isinstance(event, RunStarted)]
    if not started and not find_states(run.root)[0]:
        raise NoStateError("no_run", folder=str(run.root))
    good, damaged = newest_good(run.root, most=newest_trusted(events))
    if good is None:
        raise NoStateError("no_usable_state", folder=str(run.root), problems=damage_listed(damaged))
    recorded = [event.step for event in events if isinstance(event, CheckpointSaved)]
    done = max([good.step, *recorded])
    target = started[-1].stop_at if started else good.step
    return Standing(done, target, good)


def continued_run(run: RunFolder, values: Values, request: Request, *, from_state: str, here: Path) -> Start:
    """The start that goes on with a run; `request.steps` None finishes what is owed.

    It can be asked again once the run is locked: where the run has moved on meanwhile, it is worked out anew.

    Raises:
        InputError: of any kind, NoStateError among them; nothing was written.
    """
    now = standing(run)
    if not run.config.exists():
        raise NoStateError("run_settings_lost", file=str(run.config), folder=str(run.root))
    kept = load_run_toml(run.config)
    events = read_events(run.ledger)
    before = found_again(run, kept, events)
    # `auto` asks for nothing: what it has become is the run's own.
    asked = {key: value for key, value in values.items() if not (key == ("model", "prediction") and value == "auto")}
    config = before.with_values(_absolute(asked, here))
    _check_settings(config, request)
    _check_identity(before, config)
    if ("adapter", "init_from") in values:
        raise ConfigError("init_from_with_continue")
    if config.dataset.hold_out != before.dataset.hold_out:
        raise ConfigError("hold_out_fixed", before=before.dataset.hold_out)
    weights = base_weights(config)
    check_clip_skip(weights, config.model.clip_skip)
    if weights.layout != "pickle" and weights.family != before.model.family:
        raise ModelError("base_model_other_family", found=weights.family, expected=before.model.family)
    found = scan_for(config, weights, check_pixels=True)
    state, base_step = now.state, now.done
    if from_state:
        state = _named_state(run, from_state)
        base_step = state.step
    stop_at = base_step + request.steps if request.steps is not None else now.target
    if request.epochs is not None:
        stop_at = base_step + steps_of_epochs(config, found, request.epochs)
    if stop_at < state.step or (stop_at == state.step and _is_all_done(run, config.export.name, stop_at)):
        raise ConfigError("nothing_owed", done=now.done, target=now.target)
    start = Start(
        run,
        config,
        stop_at,
        is_new=False,
        first_step=state.step,
        resume=state.path,
        seen=encoded(found.seen),
        warnings=(
            *lines_about_places(run, config, events, asked=values),
            *notices(config, found, stop_at),
            *_lr_jump(before, config, state.step, (now.target, stop_at)),
        ),
    )

    def replanned() -> Start:
        if standing(run) == now and load_run_toml(run.config) == kept:
            return start
        return continued_run(run, values, request, from_state=from_state, here=here)

    return replace(start, replan=replanned)


def differing_settings(config: RunConfig, values: Values, here: Path) -> list[str]:
    """The names of those settings that are not what a run goes on with; what a run resolves itself does not count."""
    resolved = _absolute({at: value for at, value in values.items() if value not in ("auto", "")}, here)
    if ("adapter", "init_from") in resolved:
        resolved["adapter", "init_from"] = _named_path(str(resolved["adapter", "init_from"]), here)
    ours, theirs = config.model_dump(), config.with_values(resolved).model_dump()
    keys = {(one.section, one.field_name): one.key for one in options().values()}
    differ = [
        at for at in resolved if (ours[at[0]] if at[0] else ours)[at[1]] != (theirs[at[0]] if at[0] else theirs)[at[1]]
    ]
    return [keys[at] for at in differ]


def _lr_jump(
    before: RunConfig, config: RunConfig, step: int, ends: tuple[int, int]
) -> list[tuple[str, dict[str, Any]]]:
    """That the learning rate does not go on where it was, as its shape follows the target and that has moved; `ends`
    are the old and the new one. What was asked for is no news."""
    schedule, lr = config.lr_schedule, config.optimizer.lr
    if schedule != before.lr_schedule or schedule.horizon_steps is not None or lr != before.optimizer.lr:
        return []
    was, now = (
        lr * lr_factor_at(step + 1, shape=schedule.shape, warmup_steps=schedule.warmup_steps, horizon_steps=end)
        for end in ends
    )
    if math.isclose(was, now, rel_tol=LR_TOLERANCE):
        return []
    fields = {"before": f"{was:.3g}", "now": f"{now:.3g}", "horizon_before": ends[0], "horizon": ends[1]}
    return [("lr_jumps", fields)]


def _check_settings(config: RunConfig, request: Request) -> None:
    """Settings that contradict each other, and names of what does not exist."""
    check_names(config)
    if request.steps is not None and request.epochs is not None:
        raise ConfigError("steps_and_epochs")
    if config.optimizer.text_encoder_lr is not None and not config.adapter.train_text_encoder:
        raise ConfigError("text_encoder_lr_unused")
    horizon = config.lr_schedule.horizon_steps
    if horizon is not None and config.lr_schedule.warmup_steps >= horizon:
        raise ConfigError("warmup_beyond_horizon", warmup=config.lr_schedule.warmup_steps, horizon=horizon)


def _check_folders(run: RunFolder, config: RunConfig, here: Path) -> None:
    """A run folder must be a folder, and not one that holds something else of the user's."""
    data = (here / config.dataset.folder).resolve()
    model = (here / expanded(config.model.base_model)).resolve()
    others = [here.resolve(), data, model] if is_there(model) else [here.resolve(), data]
    root = run.root.resolve()
    there = next(one for one in (run.root, *run.root.parents) if os.path.lexists(one))
    if not there.is_dir():
        raise ConfigError("output_not_folder", folder=str(there))
    holds_other = any(root in (other, *other.parents) for other in others)
    if holds_other or (data in root.parents and _holds_pictures(root) and not run.ledger.exists()):
        raise ConfigError("output_holds_other", folder=str(run.root))


def _holds_pictures(folder: Path) -> bool:
    """A run has its own in folders of their own."""
    kinds = readable()
    return folder.is_dir() and any(extension_of(one.name) in kinds for one in folder.iterdir())


def _check_identity(before: RunConfig, after: RunConfig) -> None:
    """What the tensors of the states depend on cannot change."""
    old, new = before.identity_values(), after.identity_values()
    for option, value in old.items():
        if new[option] != value:
            raise ResumeError("identity_changed", option=option, before=str(value), now=str(new[option]))


def _is_all_done(run: RunFolder, name: str, step: int) -> bool:
    """Whether that is done too which comes after the state of the last step: its LoRA got its name, and the run came to
    its end, so that it was looked at and the best step chosen. A run can die on the way."""
    path = run.export(name)
    events = surviving(read_events(run.ledger))
    if not path.exists() or not events:
        return path.exists()
    exports = [event for event in events if isinstance(event, AdapterExported) and event.step == step]
    ends = [event for event in events if isinstance(event, RunStarted | RunStopped)]
    has_finished = bool(ends) and isinstance(ends[-1], RunStopped) and ends[-1].exit_code == ExitCode.FINISHED
    return has_finished and any(event.path == path.name for event in exports)


def _named_state(run: RunFolder, name: str) -> SavedState:
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
    """The step with the lowest validation loss on held-out pictures."""
    chosen = [event.step for event in surviving(read_events(run.ledger)) if isinstance(event, BestChosen)]
    if not chosen:
        is_held_out = bool(load_run_toml(run.config).dataset.held_out)
        raise ConfigError("best_not_chosen" if is_held_out else "no_best_state")
    return chosen[-1]


def _absolute(values: Values, here: Path) -> dict[tuple[str, str], Any]:
    """Paths that were typed here still hold when the run goes on from another folder."""
    resolved = dict(values)
    if ("dataset", "folder") in resolved:
        resolved["dataset", "folder"] = str((here / str(resolved["dataset", "folder"])).resolve())
    if ("evaluation", "clip_model") in resolved:
        resolved["evaluation", "clip_model"] = _named_path(str(resolved["evaluation", "clip_model"]), here)
    if ("model", "base_model") in resolved:
        resolved["model", "base_model"] = _remembered(str(resolved["model", "base_model"]), here)
    return resolved


def _project(run: RunFolder, here: Path) -> str:
    """Where a new run's project lies from its folder: where it was begun, or around a folder that lies elsewhere."""
    root, here = run.root.absolute(), here.absolute()
    return Path(os.path.relpath(here, root)).as_posix() if root.is_relative_to(here) and root != here else ".."


def _named_path(name: str, here: Path) -> str:
    return _remembered(name, here) if name else ""


def _remembered(base_model: str, here: Path) -> str:
    """A link stays a link: where it leads next month is meant to be used then."""
    path = here / base_model
    return os.path.abspath(path) if is_there(path) else base_model  # noqa: PTH100 - resolving would follow the link
