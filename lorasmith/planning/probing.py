"""A short trial of a start, in a folder of its own that is gone afterwards: what it takes in time, memory and room.

A worker process trains some steps on a few copied pictures, with every setting of the start that time and memory depend
on. Nothing is written where the person's files are. Knows no torch.
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
from pathlib import Path
from typing import Any

from lorasmith.config import RunConfig, dump_run_toml
from lorasmith.data.findings import Finding
from lorasmith.data.folder import Scan
from lorasmith.data.types import Example
from lorasmith.errors import ExitCode, InputError
from lorasmith.inputs import base_weights, split_examples
from lorasmith.planning.files import is_evaluated
from lorasmith.planning.plan import ProbeResult, Unmeasured, largest_bucket
from lorasmith.processor import read_processor
from lorasmith.runs.layout import RunFolder
from lorasmith.runtime.start import Start
from lorasmith.runtime.worker_environment import worker_environment

PICTURES = 4
STEPS = 3
# Steps of a small model are short, and the first ones not like the others; it also draws all samples at once.
SMALL_MODEL_PARAMETERS, STEPS_OF_SMALL = 50_000_000, 15
PATIENCE = 6  # times --stall-timeout, as while a run loads
# Of the trial's own folder, not of the person's.
ITS_OWN_TROUBLE = frozenset({"disk_full", "disk_too_full", "cache_not_writable"})

PLAN, ANSWER = "plan.toml", "answer.json"

Launch = Callable[[list[str]], "subprocess.Popen[bytes]"]


def launch_probe(arguments: list[str]) -> subprocess.Popen[bytes]:
    """A Python of its own, in a process group of its own; what libraries print there is nobody's business."""
    command = [sys.executable, "-P", "-m", "lorasmith.planning.probe", *arguments]
    environment = worker_environment(os.environ, read_processor())
    apart: dict[str, Any] = {"start_new_session": True}
    if os.name == "nt":
        apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined, unused-ignore]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, env=environment, **apart)


def probe(start: Start, found: Scan, *, launch: Launch = launch_probe) -> ProbeResult | Unmeasured:
    """Makes the trial and waits for it.

    Raises:
        InputError: the run would be refused for this too.
    """
    with tempfile.TemporaryDirectory(prefix="lorasmith-plan-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        try:
            _prepare(folder, start, found)
        except OSError as error:
            return Unmeasured("probe_no_place", {"folder": str(folder), "reason": error.strerror or str(error)})
        return _answer(folder, start, launch)


def _prepare(folder: Path, start: Start, found: Scan) -> None:
    """The run that is tried, as a supervisor would leave it for its worker; and the whole start, for the cache."""
    trained, _ = split_examples(start.config, found)
    _copy_pictures(folder / "data", chosen(trained), repeats=start.config.training.batch_size)
    run = RunFolder(folder / "lora_output")
    run.root.mkdir()
    run.staging.mkdir()
    (run.staging / run.config.name).write_bytes(dump_run_toml(_trial_config(start, folder / "data")))
    (folder / PLAN).write_bytes(dump_run_toml(start.config))


def chosen(trained: Sequence[Example]) -> list[Example]:
    """A few of the largest bucket, no two with equal bytes, with words as different as there are."""
    bucket = largest_bucket(trained)
    distinct = list({one.image_sha256: one for one in trained if one.bucket == bucket}.values())
    by_caption = {one.caption: one for one in reversed(distinct)}
    first = list(by_caption.values())[:PICTURES]
    return first + [one for one in distinct if one not in first][: PICTURES - len(first)]


def _copy_pictures(data: Path, examples: Sequence[Example], *, repeats: int) -> None:
    """So often each that every batch is full."""
    folder = data / f"{repeats}_"
    folder.mkdir(parents=True)
    for number, one in enumerate(examples):
        shutil.copyfile(one.image, folder / f"{number}{one.image.suffix}")
        (folder / f"{number}.txt").write_text(one.caption, encoding="utf-8")


def _trial_config(start: Start, data: Path) -> RunConfig:
    config = start.config
    return config.with_values(
        {
            ("dataset", "folder"): str(data),
            ("dataset", "trigger_word"): "",  # it stands in the captions already
            ("dataset", "hold_out"): 0,
            ("dataset", "held_out"): (),
            ("lr_schedule", "horizon_steps"): config.lr_schedule.resolved_horizon(start.stop_at),
            ("cadence", "save_every"): 0,
            ("cadence", "save_minutes"): 0.0,
            ("cadence", "keep_states"): 2,  # the first and the last: both are looked at
            ("evaluation", "every"): steps_of(config) if is_evaluated(config) else 0,
            ("evaluation", "examples"): min(PICTURES, config.evaluation.examples) if is_small(config) else 1,
            ("evaluation", "sample_prompts"): (),
        }
    )


def steps_of(config: RunConfig) -> int:
    """How many steps are tried."""
    return STEPS_OF_SMALL if is_small(config) else STEPS


def is_small(config: RunConfig) -> bool:
    """Whether the model is so quick that more of it can be tried."""
    parameters = base_weights(config).denoiser_parameters
    return parameters is not None and parameters < SMALL_MODEL_PARAMETERS


def _answer(folder: Path, start: Start, launch: Launch) -> ProbeResult | Unmeasured:
    steps = steps_of(start.config)
    began = time.time()
    process = launch([str(folder), "--steps", str(steps), "--launched", repr(began), "--supervisor", str(os.getpid())])
    patience = PATIENCE * start.config.watch.stall_timeout
    try:
        status = process.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        return Unmeasured("probe_stalled", {"seconds": round(patience)})
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    try:
        plain = json.loads((folder / ANSWER).read_bytes())
    except (OSError, ValueError):
        return Unmeasured("worker_died", {"status": status})
    if "measured" in plain:
        told = plain["measured"]
        noticed = tuple(Finding(**one) for one in told["noticed"])
        return ProbeResult(**{**told, "first_steps_seconds": tuple(told["first_steps_seconds"]), "noticed": noticed})
    if plain["exit_code"] == ExitCode.BAD_INPUT and plain["code"] not in ITS_OWN_TROUBLE:
        raise InputError(plain["code"], **plain["fields"])
    return Unmeasured(plain["code"], plain["fields"])
