"""The plan of a start: numbers and codes from its config, its pictures and a probe. Changes nothing on disk."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorasmith.config import RunConfig
from lorasmith.data.cache_folder import cache_folder
from lorasmith.data.findings import Finding
from lorasmith.data.folder import Scan
from lorasmith.data.types import Example
from lorasmith.inputs import base_weights, data_folders, scan_for, split_examples
from lorasmith.planning.estimate import (
    DiskPlan,
    ProbeResult,
    TimePlan,
    Unmeasured,
    Workload,
    estimate_disk,
    estimate_time,
    workload_of,
)
from lorasmith.runs.naming import FileNames, names_in
from lorasmith.runs.states import find_states
from lorasmith.session.lanes import LaneEstimate
from lorasmith.session.layers import chosen_layers, published_layers
from lorasmith.session.name_tables import other_file

if TYPE_CHECKING:
    from lorasmith.runtime.preflight import Start

# (minimum number of pictures, fewest steps, most steps) from experience; None: no limit.
SUGGESTIONS: tuple[tuple[int, int, int | None], ...] = ((0, 200, 500), (50, 500, 1000), (201, 1000, None))
NOT_PROBED = "not_probed"  # the probe was switched off


@dataclass(frozen=True, slots=True)
class FolderPlan:
    """A folder of pictures that are trained on."""

    name: str
    pictures: int
    repeats: int
    times_seen: float  # how often this start uses each of its pictures
    is_regularisation: bool = False


@dataclass(frozen=True, slots=True)
class BucketPlan:
    """A size that pictures are cut to."""

    width: int
    height: int
    pictures: int
    batches: int  # in an epoch


@dataclass(frozen=True, slots=True)
class ComponentPlan:
    """The layers of a component that are trained, by the family's published model."""

    name: str  # "denoiser", "text_encoder"
    layers: int
    offered: int  # that could be trained
    ranks: tuple[int, int]  # the smallest and the largest


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The work of a start and its cost."""

    is_new: bool
    first_step: int
    stop_at: int
    steps_assumed: bool  # no number of steps was given: the smallest suggested number
    pictures: int  # trained on
    held_out: int
    repeats: int  # sum over all pictures
    folders: tuple[FolderPlan, ...]
    buckets: tuple[BucketPlan, ...]
    components: tuple[ComponentPlan, ...]  # none for a pickle, whose family is not known
    batch_size: int  # of the run
    batch_sizes: tuple[int, ...]  # of the subsets, each once
    accumulation_steps: int
    batches_per_epoch: int
    epochs: float  # in this start
    times_seen: tuple[float, float]  # of the picture that is used least, and most
    learned_from: int  # different picture files that are no regularisation pictures
    suggested_steps: tuple[int, int | None]  # for those
    warnings: tuple[tuple[str, dict[str, Any]], ...]  # (code, fields), as the run will give them
    findings: tuple[Finding, ...]
    free_bytes: int  # on the disk of the run folder
    measured: ProbeResult | Unmeasured
    time: TimePlan | None  # None: not measured
    disk: DiskPlan | None
    noise_levels: tuple[float, ...]  # share of the examples by level; none of a model with timesteps
    lanes: tuple[LaneEstimate, ...]  # with --memory, from the fastest on
    files: tuple[str, ...]  # patterns of paths that will be written; YYYYMMDD_HHMMSS stands for a time

    @property
    def steps(self) -> int:
        """Steps of this start."""
        return self.stop_at - self.first_step

    @property
    def lacks_room(self) -> bool:
        """Whether the files of the run need more space than the disk has."""
        return self.disk is not None and self.disk.total > self.free_bytes


def suggested_steps(pictures: int) -> tuple[int, int | None]:
    """The fewest and the most steps suggested for a number of pictures; None: no limit."""
    fewest, most = next((fewest, most) for minimum, fewest, most in reversed(SUGGESTIONS) if pictures >= minimum)
    return fewest, most


def times_seen(steps: int, examples_per_step: float, repeats: int, sum_of_repeats: int) -> float:
    """The number of times a picture with `repeats` is used: steps / pictures with default settings."""
    return steps * examples_per_step * repeats / sum_of_repeats


def scan_of(start: Start) -> Scan:
    """Scans the pictures of a start whose files were checked a moment ago."""
    return scan_for(start.config, base_weights(start.config), check_pixels=False)


def with_suggested_steps(start: Start, found: Scan) -> Start:
    """Returns `start` with the fewest steps suggested for its pictures."""
    trained, _ = split_examples(start.config, found)
    return replace(start, stop_at=start.first_step + suggested_steps(_learned_from(trained))[0])


def _learned_from(trained: Sequence[Example]) -> int:
    return len({example.image for example in trained if not example.is_regularisation})


def plan_of(
    start: Start,
    found: Scan,
    measured: ProbeResult | Unmeasured,
    *,
    steps_assumed: bool = False,
    checking_seconds: float = 0.0,
    noise_levels: tuple[float, ...] = (),
) -> RunPlan:
    """Plans `start` with its scanned pictures.

    Args:
        checking_seconds: the time the parent takes before its worker.
        noise_levels: where nothing was measured; a probe finds them too.
    """
    work = workload_of(start, found)
    training = start.config.training
    seen = [times_seen(work.steps, work.examples_per_step, example.repeats, work.repeats) for example in work.trained]
    known = {finding.code for finding in found.findings}
    time: TimePlan | None = None
    disk: DiskPlan | None = None
    noticed: tuple[Finding, ...] = ()
    if isinstance(measured, ProbeResult):
        time = estimate_time(work, measured, checking_seconds=checking_seconds)
        disk, noticed = estimate_disk(start, work, measured), measured.noticed
        noise_levels = measured.noise_levels
    return RunPlan(
        is_new=start.is_new,
        first_step=start.first_step,
        stop_at=start.stop_at,
        steps_assumed=steps_assumed,
        pictures=len(work.trained),
        held_out=len(work.held_out),
        repeats=work.repeats,
        folders=_folders(work),
        buckets=_buckets(work),
        components=_components(start.config, base_weights(start.config).depths),
        batch_size=training.batch_size,
        batch_sizes=_batch_sizes(start.config, work),
        accumulation_steps=training.accumulation_steps,
        batches_per_epoch=len(work.batches),
        epochs=work.steps * training.accumulation_steps / len(work.batches),
        times_seen=(min(seen), max(seen)),
        learned_from=_learned_from(work.trained),
        suggested_steps=suggested_steps(_learned_from(work.trained)),
        warnings=tuple(warning for warning in start.warnings if warning[0] not in known),
        findings=(*found.findings, *noticed),
        free_bytes=_free_bytes(start.run.root),
        measured=measured,
        time=time,
        disk=disk,
        noise_levels=noise_levels,
        lanes=start.lanes,
        files=file_patterns(start),
    )


def file_patterns(start: Start) -> tuple[str, ...]:
    """Patterns of the paths that a start writes, and of what it moves to the backup folder."""
    run, config = start.run, start.config
    names, time = FileNames(run, config.export), "YYYYMMDD_HHMMSS"
    other = other_file(names, config.model.family)
    is_evaluated = config.is_evaluated
    replaced = {names_in(run).last} if start.is_new else {names.last}
    report = run.training_logs / f"lora_training_report_{time}"
    cache = cache_folder(data_folders(config)[0])
    return tuple(
        str(path)
        for path, is_written in (
            (names.last, True),
            *((path, True) for path in (other,) if path is not None),
            *((names.folder / pattern, is_numbered) for pattern, is_numbered in _numbered(start, names)),
            (names.best, is_evaluated and bool(config.dataset.held_out)),
            (names.state_pattern / "*", True),
            (run.samples / "*" / "*.png", is_evaluated),
            (run.tensorboard / "events.out.tfevents.*", True),
            *((path, True) for path in (run.ledger, run.supervisor_log, run.config, run.heartbeat, run.loss_log)),
            *((report.with_suffix(suffix), True) for suffix in (".json", ".html")),
            (run.training_logs / f"lora_training_curves_{time}.png", find_spec("matplotlib") is not None),
            (cache / "*" / "*.safetensors", True),
            *((run.backup / f"{path.stem}_backup_{time}.safetensors", path.exists()) for path in replaced),
            (run.backup / f"run_{time}" / "*", _moves_older(start)),
        )
        if is_written
    )


def _numbered(start: Start, names: FileNames) -> list[tuple[str, bool]]:
    """Patterns of the numbered LoRA files, and whether there will be any."""
    cadence = start.config.cadence
    by_epochs = cadence.epochs_between_saves(1) > 0
    if len(names.patterns) == 1:
        return [(names.patterns[0], cadence.save_every > 0 or by_epochs)]
    return list(zip(names.patterns, (cadence.save_every > 0, by_epochs), strict=True))


def _moves_older(start: Start) -> bool:
    """Whether the start moves an older run, or the states of later steps, to the backup folder."""
    if start.is_new:
        return start.run.root.is_dir() and any(start.run.root.iterdir())
    return any(state.step > start.first_step for state in find_states(start.run.root)[0])


def _folders(work: Workload) -> tuple[FolderPlan, ...]:
    counts = Counter(
        (example.subset, example.image.parent.name, example.repeats, example.is_regularisation)
        for example in work.trained
    )
    return tuple(
        FolderPlan(name, count, repeats, times_seen(work.steps, work.examples_per_step, repeats, work.repeats), is_reg)
        for (_, name, repeats, is_reg), count in counts.items()
    )


def _batch_sizes(config: RunConfig, work: Workload) -> tuple[int, ...]:
    subsets = config.subsets()
    return tuple(sorted({subsets[example.subset].batch_size for example in work.trained}))


def _components(config: RunConfig, depths: Mapping[str, int]) -> tuple[ComponentPlan, ...]:
    if not config.model.family:
        return ()
    with_text = config.adapter.trains_text_encoder
    offered = published_layers(config.model.family, with_text_encoders=with_text, depths=depths)
    chosen = chosen_layers(config.adapter, config.model.family, offered)
    plans = []
    for component, count in Counter(name.partition(".")[0] for name in offered).items():
        ranks = [size.rank for name, size in chosen.items() if name.startswith(f"{component}.")]
        if ranks:
            plans.append(ComponentPlan(component, len(ranks), count, (min(ranks), max(ranks))))
    return tuple(plans)


def _buckets(work: Workload) -> tuple[BucketPlan, ...]:
    pictures = Counter(example.bucket for example in work.trained)
    batches = Counter(work.trained[ids[0]].bucket for ids in work.batches)
    return tuple(BucketPlan(*bucket, pictures[bucket], batches[bucket]) for bucket in sorted(pictures))


def _free_bytes(folder: Path) -> int:
    """Free bytes on the disk that `folder` lies on, or will lie on."""
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    return shutil.disk_usage(existing).free


def as_plain(plan: RunPlan) -> dict[str, Any]:
    """The plan as JSON values: every field by its name, and the sums."""
    plain = asdict(plan)
    plain["steps"] = plan.steps
    plain["lacks_room"] = plan.lacks_room
    plain["warnings"] = [{"code": code, "fields": fields} for code, fields in plan.warnings]
    plain["files"] = [{"path": path} for path in plan.files]
    plain["lanes"] = [{**asdict(found), "total": found.total, "lane": found.lane._asdict()} for found in plan.lanes]
    for name, part in (("time", plan.time), ("disk", plan.disk)):
        if part is not None:
            plain[name]["total"] = part.total
    return plain
