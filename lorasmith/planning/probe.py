"""A probe: a few steps of a start in a temporary folder, to measure time, memory and disk space. Torch-free.

A process of its own trains on copies of a few pictures, with every setting of the start that the measurements depend
on. Nothing is written where the user's files are.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorasmith.config import RunConfig, Subset, dump_run_toml
from lorasmith.data.findings import Finding
from lorasmith.data.folder import Scan
from lorasmith.data.types import Example
from lorasmith.errors import ExitCode, InputError
from lorasmith.inputs import base_weights, split_examples
from lorasmith.planning.estimate import ProbeResult, Unmeasured, heaviest_example
from lorasmith.runs.layout import RunFolder
from lorasmith.runtime.policy import FIRST_TIMES
from lorasmith.runtime.processes import launch

if TYPE_CHECKING:
    from lorasmith.runtime.preflight import Start

PICTURES = 4
STEPS = 3
# Steps of a small model are short and the first few are slower than the others; all samples can be drawn at once.
SMALL_MODEL_PARAMETERS, STEPS_OF_SMALL = 50_000_000, 15
# Errors about the probe's temporary folder, which say nothing about the run.
ERRORS_OF_THE_PROBE = frozenset({"disk_full", "disk_too_full", "cache_not_writable"})

_STEPS_ALONE = {("training", "accumulation_steps"): 1, ("evaluation", "every"): 0}

# In the probe's folder: the run it makes, the settings of the whole start, and the answer.
RUN, PLAN, ANSWER = "lora_output", "plan.toml", "answer.json"

Launch = Callable[[list[str]], "subprocess.Popen[bytes]"]


def launch_probe(arguments: list[str]) -> subprocess.Popen[bytes]:
    """Starts the process of a probe; what libraries print there is dropped."""
    return launch([sys.executable, "-P", "-m", "lorasmith.planning.probe_process", *arguments], subprocess.DEVNULL)


def probe(
    start: Start, found: Scan, *, batch_size: int | None = None, launch: Launch = launch_probe
) -> ProbeResult | Unmeasured:
    """Runs a probe and returns its measurements, or why there are none. With `batch_size` of steps alone, of a single
    micro-batch of that size each.

    Raises:
        InputError: the run would be refused for the same reason.
    """
    with tempfile.TemporaryDirectory(prefix="lorasmith-plan-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        try:
            _prepare(folder, start, found, batch_size)
        except OSError as error:
            return Unmeasured("probe_no_place", {"folder": str(folder), "reason": error.strerror or str(error)})
        return _answer(folder, start, launch, [] if batch_size is None else ["--measure-device"])


def noise_levels(start: Start, *, launch: Launch = launch_probe) -> tuple[float, ...]:
    """The share of the examples at each level of noise, as a probe would find it, without one; none where the model has
    timesteps in place of levels, or where it cannot be computed: then the run will give the reason."""
    if base_weights(start.config).noise.prediction != "flow":
        return ()
    with suppress(OSError), tempfile.TemporaryDirectory(prefix="lorasmith-plan-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        (folder / PLAN).write_bytes(dump_run_toml(start.config))
        found = _run(folder, start, launch, ["--levels-alone"])
        return () if isinstance(found, Unmeasured) else tuple(found.get("noise_levels", ()))
    return ()


def _prepare(folder: Path, start: Start, found: Scan, batch_size: int | None) -> None:
    """Stages the run of the probe as a supervisor does for its worker, and stores the settings of the whole start."""
    trained, _ = split_examples(start.config, found)
    subset = start.config.subsets()[heaviest_example(start.config, trained).subset]
    _copy_pictures(folder / "data", chosen_pictures(start.config, trained), repeats=batch_size or subset.batch_size)
    run = RunFolder(folder / RUN)
    run.root.mkdir()
    run.staging.mkdir()
    config = _probe_config(start, subset, folder / "data")
    if batch_size is not None:
        config = config.with_values({**_STEPS_ALONE, ("training", "batch_size"): batch_size})
    (run.staging / run.config.name).write_bytes(dump_run_toml(config))
    (folder / PLAN).write_bytes(dump_run_toml(start.config))


def chosen_pictures(config: RunConfig, trained: Sequence[Example]) -> list[Example]:
    """A few distinct pictures whose batches need most memory, with different captions as far as possible."""
    heaviest = heaviest_example(config, trained)
    alike = [example for example in trained if (example.subset, example.bucket) == (heaviest.subset, heaviest.bucket)]
    distinct = list({example.image_sha256: example for example in alike}.values())
    by_caption = {example.caption: example for example in reversed(distinct)}
    first = list(by_caption.values())[:PICTURES]
    return first + [example for example in distinct if example not in first][: PICTURES - len(first)]


def _copy_pictures(data: Path, examples: Sequence[Example], *, repeats: int) -> None:
    """Copies pictures and captions, with as many repeats as make every batch full."""
    folder = data / f"{repeats}_"
    folder.mkdir(parents=True)
    for number, example in enumerate(examples):
        shutil.copyfile(example.image, folder / f"{number}{example.image.suffix}")
        (folder / f"{number}.txt").write_text(example.text, encoding="utf-8")


def _probe_config(start: Start, subset: Subset, data: Path) -> RunConfig:
    """The settings of the start with those of a subset, the probe's pictures, no saves in between and a small
    evaluation at the end."""
    config = subset.config
    return config.with_values(
        {
            ("dataset", "folder"): str(data),
            ("captions", "extension"): "",
            ("captions", "warmup_steps"): float(config.captions.resolved_warmup_steps(start.stop_at)),
            ("dataset", "hold_out"): 0,
            ("dataset", "held_out"): (),
            ("lr_schedule", "horizon_steps"): config.lr_schedule.resolved_horizon(start.stop_at),
            ("cadence", "save_every"): 0,
            ("cadence", "save_every_n_epochs"): 0,
            ("cadence", "save_n_epoch_ratio"): 0,
            ("cadence", "save_minutes"): 0.0,
            ("cadence", "keep_states"): 2,  # the first and the last are measured
            ("evaluation", "every"): steps_of(config) if config.is_evaluated else 0,
            ("evaluation", "every_n_epochs"): 0,
            ("evaluation", "at_first"): False,
            ("evaluation", "examples"): min(PICTURES, config.evaluation.examples) if is_small(config) else 1,
            ("evaluation", "sample_prompts"): (),
        }
    )


def steps_of(config: RunConfig) -> int:
    """Number of steps of a probe."""
    return STEPS_OF_SMALL if is_small(config) else STEPS


def is_small(config: RunConfig) -> bool:
    """Whether the model is so fast that a probe can do more steps and samples."""
    parameters = base_weights(config).denoiser_parameters
    return parameters is not None and parameters < SMALL_MODEL_PARAMETERS


def _answer(folder: Path, start: Start, launch: Launch, options: Sequence[str]) -> ProbeResult | Unmeasured:
    """What the process measured."""
    plain = _run(folder, start, launch, options)
    if isinstance(plain, Unmeasured):
        return plain
    if "measured" in plain:
        measured = plain["measured"]
        noticed = tuple(Finding(**finding) for finding in measured["noticed"])
        numbers = {name: tuple(measured[name]) for name in ("first_steps_seconds", "noise_levels")}
        return ProbeResult(**{**measured, **numbers, "noticed": noticed})
    if plain["exit_code"] == ExitCode.BAD_INPUT and plain["code"] not in ERRORS_OF_THE_PROBE:
        raise InputError(plain["code"], **plain["fields"])
    return Unmeasured(plain["code"], plain["fields"])


def _run(folder: Path, start: Start, launch: Launch, options: Sequence[str]) -> dict[str, Any] | Unmeasured:
    """Runs the process, kills it if it takes longer than a run may take to load, and reads its answer."""
    steps = steps_of(start.config)
    began = time.time()
    arguments = ["--steps", str(steps), "--launched", repr(began), "--supervisor", str(os.getpid()), *options]
    process = launch([str(folder), *arguments])
    patience = FIRST_TIMES * start.config.watch.stall_timeout
    try:
        status = process.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        return Unmeasured("probe_stalled", {"seconds": round(patience)})
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    try:
        plain: dict[str, Any] = json.loads((folder / ANSWER).read_bytes())
    except (OSError, ValueError):
        return Unmeasured("worker_died", {"status": status})
    return plain
