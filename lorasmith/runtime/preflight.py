"""Plans a start and checks it before anything is written, without torch: the answer is immediate.

Every InputError that can be found without reading tensors is raised here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lorasmith.config import Request, RunConfig, load_run_toml, options
from lorasmith.config.project_paths import with_subset_paths
from lorasmith.data.names import extension_of, readable
from lorasmith.data.order import split_held_out
from lorasmith.data.seen import encoded
from lorasmith.engine.lr_schedules import lr_shape
from lorasmith.errors import ConfigError, NoStateError
from lorasmith.families.locate import expanded, is_there
from lorasmith.inputs import base_weights, check_objective, data_folders, notices, scan_for, steps_of_epochs
from lorasmith.runs.layout import RunFolder, run_at
from lorasmith.runs.ledger import read_events
from lorasmith.runtime.given import GIVEN, given_options
from lorasmith.runtime.lora_inputs import (
    Values,
    Warnings,
    check_base_weights,
    check_init_from,
    find_init_from,
    shaped_by_start,
    sizes_from,
)
from lorasmith.runtime.memory import Lanes, with_lane
from lorasmith.runtime.model_parts import check_form, check_same_family, check_text, with_parts
from lorasmith.runtime.moved import found_again, lines_about_places
from lorasmith.runtime.progress import is_all_done, named_state, progress_of
from lorasmith.runtime.read_in import with_files_read
from lorasmith.runtime.settings import check_identity, check_installed, check_layers, check_lokr_effects, check_settings
from lorasmith.session.layers import check_block_effects

LR_TOLERANCE = 0.01  # a smaller share is no jump

# Links in them are followed.
FOLLOWED_PATHS = (
    *(("dataset", "folder"), ("dataset", "reg_folder"), ("dataset", "metadata_file")),
    ("loss", "mask_folder"),
)


@dataclass(frozen=True, slots=True)
class Start:
    """A start of a run, planned and checked; nothing has been written yet."""

    run: RunFolder
    config: RunConfig
    stop_at: int
    is_new: bool
    first_step: int  # steps that are done already
    resume: Path | None = None  # the state to continue from
    warnings: Warnings = ()
    lanes: Lanes = ()  # with --memory
    seen: bytes = field(default=b"", compare=False)  # facts about the pictures' files, as `data.seen` encodes them
    # Plans the same request again, for the run as it is at the time of the call.
    replan: Callable[[], Start] | None = field(default=None, compare=False)

    @property
    def has_steps_left(self) -> bool:
        """False: all steps are done, and only the export and evaluation at the end are missing."""
        return self.first_step < self.stop_at

    def replanned(self) -> Start:
        """Returns this start as it must be now that the lock is held and no other process can change the run.

        Raises:
            InputError: the start is no longer possible.
        """
        return self if self.replan is None else self.replan()


def new_run(values: Values, request: Request, *, state_prefix: str, here: Path) -> Start:
    """Plans the start of a new run.

    Raises:
        InputError: of any kind; nothing was written.
    """
    values = with_files_read(values, request, here)
    config = RunConfig().with_values({**values, ("export", "state_prefix"): state_prefix})
    run = run_at(here, request.output)
    check_settings(config, request)
    check_installed(config.optimizer)
    check_lokr_effects(config.adapter, {name for section, name in values if section == "adapter"})
    _check_folders(run, config, here)
    start = find_init_from(config, here)
    weights = base_weights(config, here)
    check_form(weights)
    config, beside = with_parts(config, weights, here)
    start, lost = check_init_from(start, config.adapter, weights.family)
    lost += check_base_weights(config.model, weights, here)
    config = config.with_values(sizes_from(start, config.adapter, values, weights.family))
    config, taken = shaped_by_start(config, values, start, here)
    check_text(weights, config.model)
    check_layers(config, weights.family, weights.depths)
    check_objective(config.loss, config.noise, weights)
    if weights.family:
        check_block_effects(config.adapter, weights.family, weights.depths)
    config = config.with_values(
        {
            ("dataset", "resolution"): config.dataset.resolved_size(weights.resolution),
            ("dataset", "folder"): _resolved_path(config.dataset.folder, here),
            ("dataset", "reg_folder"): _resolved_path(config.dataset.reg_folder, here),
            ("dataset", "metadata_file"): _resolved_path(config.dataset.metadata_file, here),
            ("loss", "mask_folder"): _resolved_path(config.loss.mask_folder, here),
            **with_subset_paths(config.dataset.subsets, lambda path: _resolved_path(path, here)),
            ("model", "base_model"): _path_or_name(config.model.base_model, here),
            ("model", "training_adapter"): _absolute_path(config.model.training_adapter, here),
            ("model", "base_weights"): tuple(_absolute_path(path, here) for path in config.model.base_weights),
            ("model", "family"): weights.family,
            GIVEN: given_options(values),
            ("machine", "project"): _project(run, here),
            ("adapter", "alpha"): config.adapter.resolved_alpha,
            ("adapter", "conv_alpha"): config.adapter.resolved_conv_alpha if config.adapter.sets_convolutions else None,
            ("adapter", "init_from"): _absolute_path(config.adapter.init_from, here),
            ("evaluation", "clip_model"): _absolute_path(config.evaluation.clip_model, here),
        }
    )
    found = scan_for(config, weights, check_pixels=True)
    pictures = [(example.image_sha256, example.repeats) for example in found.examples if not example.is_regularisation]
    held_out = split_held_out(pictures, config.dataset.hold_out, config.seed)
    config, lanes, lane_notes = with_lane(config, values, request.memory, weights, found)
    config = config.with_values({("dataset", "held_out"): tuple(sorted(held_out))})
    if request.steps is None and request.epochs is None:
        raise ConfigError("steps_unnamed")
    stop_at = request.steps or steps_of_epochs(config, found, request.epochs or 0)
    warnings = (*beside, *lost, *taken, *lane_notes, *notices(config, found, stop_at))
    seen = encoded(found.seen)
    return Start(run, config, stop_at, is_new=True, first_step=0, warnings=warnings, seen=seen, lanes=lanes)


def continued_run(run: RunFolder, values: Values, request: Request, *, from_state: str, here: Path) -> Start:
    """Plans the start that continues a run; without `request.steps` it completes the steps that are left.

    Its `replan` plans it anew if the run has changed by the time it is locked.

    Raises:
        InputError: of any kind, NoStateError among them; nothing was written.
    """
    now = progress_of(run)
    if not run.config.exists():
        raise NoStateError("run_settings_lost", file=str(run.config), folder=str(run.root))
    kept = load_run_toml(run.config)
    events = read_events(run.ledger)
    before = found_again(run, kept, events)
    # `auto` changes nothing: the run keeps what it was resolved to.
    asked = {key: value for key, value in values.items() if not (key == ("model", "prediction") and value == "auto")}
    asked = _absolute(with_files_read(asked, request, here), here)
    config = before.with_values({**asked, GIVEN: given_options(asked, before)})
    check_settings(config, request)
    check_installed(config.optimizer)
    check_identity(before, config)
    _check_only_new(values, request, before, config)
    weights = base_weights(config)
    check_text(weights, config.model)
    check_layers(config, before.model.family)
    check_objective(config.loss, config.noise, weights)
    check_same_family(weights, before.model.family)
    check_base_weights(config.model, weights, here)
    found = scan_for(config, weights, check_pixels=True)
    state = named_state(run, from_state) if from_state else now.state
    base_step = state.step if from_state else now.done
    stop_at = base_step + request.steps if request.steps is not None else now.stop_at
    if request.epochs is not None:
        stop_at = base_step + steps_of_epochs(config, found, request.epochs)
    if stop_at < state.step or (stop_at == state.step and is_all_done(run, config, stop_at)):
        raise ConfigError("nothing_owed", done=now.done, target=now.stop_at)
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
            *_lr_jump(before, config, state.step, (now.stop_at, stop_at)),
        ),
    )

    def replanned() -> Start:
        if progress_of(run) == now and load_run_toml(run.config) == kept:
            return start
        return continued_run(run, values, request, from_state=from_state, here=here)

    return replace(start, replan=replanned)


def _check_only_new(values: Values, request: Request, before: RunConfig, config: RunConfig) -> None:
    """Refuses options that act when a run is new and at no other start."""
    if ("adapter", "init_from") in values:
        raise ConfigError("init_from_with_continue")
    if request.memory is not None:
        raise ConfigError("memory_with_continue")
    if config.dataset.hold_out != before.dataset.hold_out:
        raise ConfigError("hold_out_fixed", before=before.dataset.hold_out)


def differing_settings(config: RunConfig, values: Values, here: Path) -> list[str]:
    """Names the settings in `values` that differ from `config`; `auto` and empty values do not count."""
    resolved = _absolute({at: value for at, value in values.items() if value not in ("auto", "")}, here)
    if ("adapter", "init_from") in resolved:
        resolved["adapter", "init_from"] = _absolute_path(str(resolved["adapter", "init_from"]), here)
    ours, theirs = config.model_dump(), config.with_values(resolved).model_dump()
    keys = {(option.section, option.field_name): option.key for option in options().values()}
    differ = [
        at for at in resolved if (ours[at[0]] if at[0] else ours)[at[1]] != (theirs[at[0]] if at[0] else theirs)[at[1]]
    ]
    return [keys.get(at, ".".join(at)) for at in differ]


def _lr_jump(
    before: RunConfig, config: RunConfig, step: int, ends: tuple[int, int]
) -> list[tuple[str, dict[str, Any]]]:
    """A notice that the learning rate jumps, since its shape ends at `stop_at`, which has moved.

    `ends`: the last step before and now. No notice for a change of the schedule or the rate itself.
    """
    schedule, lr = config.lr_schedule, config.optimizer.lr
    if schedule != before.lr_schedule or schedule.horizon_steps is not None or lr != before.optimizer.lr:
        return []
    if schedule.is_class:  # none of them knows where the run ends
        return []
    was, now = (lr * lr_shape(schedule, lr=lr, stop_at=end).factor_at(step + 1) for end in ends)
    if math.isclose(was, now, rel_tol=LR_TOLERANCE):
        return []
    fields = {"before": f"{was:.3g}", "now": f"{now:.3g}", "horizon_before": ends[0], "horizon": ends[1]}
    return [("lr_jumps", fields)]


def _check_folders(run: RunFolder, config: RunConfig, here: Path) -> None:
    """Refuses a run folder that is a file, or that holds other things of the user."""
    data = [(here / folder).resolve() for folder in data_folders(config)]
    model = (here / expanded(config.model.base_model)).resolve()
    others = [here.resolve(), *data, *([model] if is_there(model) else [])]
    root = run.root.resolve()
    there = next(folder for folder in (run.root, *run.root.parents) if os.path.lexists(folder))
    if not there.is_dir():
        raise ConfigError("output_not_folder", folder=str(there))
    holds_other = any(root in (other, *other.parents) for other in others)
    is_among_pictures = any(folder in root.parents for folder in data)
    if holds_other or (is_among_pictures and _holds_pictures(root) and not run.ledger.exists()):
        raise ConfigError("output_holds_other", folder=str(run.root))


def _holds_pictures(folder: Path) -> bool:
    """Whether pictures lie directly in the folder: those of a run lie in folders inside it."""
    kinds = readable()
    return folder.is_dir() and any(extension_of(path.name) in kinds for path in folder.iterdir())


def _absolute(values: Values, here: Path) -> dict[tuple[str, str], Any]:
    """Makes the paths in `values` absolute, so that the run can be continued from another folder."""
    resolved = dict(values)
    for at in FOLLOWED_PATHS:
        if at in resolved:
            resolved[at] = _resolved_path(str(resolved[at]), here)
    resolved |= with_subset_paths(resolved.get(("dataset", "subsets"), ()), lambda path: _resolved_path(path, here))
    for at in (("evaluation", "clip_model"), ("model", "vae"), ("model", "training_adapter")):
        if at in resolved:
            resolved[at] = _absolute_path(str(resolved[at]), here)
    for at in (("model", "base_weights"), ("model", "text_encoder")):
        if at in resolved:
            resolved[at] = tuple(_absolute_path(path, here) for path in values[at])
    if ("model", "base_model") in resolved:
        resolved["model", "base_model"] = _path_or_name(str(resolved["model", "base_model"]), here)
    return resolved


def _project(run: RunFolder, here: Path) -> str:
    """The project of a new run, relative to its folder: the current folder if the run lies in it, else the parent."""
    root, here = run.root.absolute(), here.absolute()
    return Path(os.path.relpath(here, root)).as_posix() if root.is_relative_to(here) and root != here else ".."


def _resolved_path(folder: str, here: Path) -> str:
    return str((here / folder).resolve()) if folder else ""


def _absolute_path(name: str, here: Path) -> str:
    return _path_or_name(name, here) if name else ""


def _path_or_name(base_model: str, here: Path) -> str:
    """The absolute path, or the name of a model that is no path. A link is not followed: its target may change."""
    path = here / base_model
    return os.path.abspath(path) if is_there(path) else base_model  # noqa: PTH100 - resolving would follow the link
