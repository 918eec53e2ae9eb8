"""Everything that can happen in a run, as data: one frozen dataclass an event, one JSON line each.

Events carry codes and numbers, never sentences. An event that this version does not know is read as None, so an older
program can read a newer ledger.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What all events have. `time` is wall-clock seconds since 1970, for people; nothing is decided by it."""

    attempt: int
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceChosen(Event):
    """The first thing a worker says."""

    device: str
    name: str
    reason: str  # a code: asked, kept, first_available, no_accelerator, torch_without_cuda
    precision: str
    precision_reason: str
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheProgress(Event):
    """Pictures and captions encoded so far, of those that had to be."""

    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """Written before the first step of every start, when everything has loaded."""

    identity: str
    resumed_from: int | None  # the step of the state, None with --new
    stop_at: int
    settings: dict[str, Any]
    changed: dict[str, list[Any]] = field(default_factory=dict)  # option -> [before, now]
    examples: list[dict[str, Any]] = field(default_factory=list)  # path, fingerprint, sha256, repeats, bucket; by id
    held_out: list[str] = field(default_factory=list)  # paths
    batches_per_epoch: int = 0
    fingerprint: dict[str, Any] = field(default_factory=dict)  # software, device, threads
    root: str = ""  # the run folder as it was called; "" in ledgers of older versions


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCompleted(Event):
    """One optimizer update was applied; `loss` is the mean over its examples."""

    step: int
    epoch: int
    loss: float
    lr: dict[str, float]  # by component
    grad_norm: float
    example_ids: list[int]
    seconds: float
    peak_memory: int  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRepeated(Event):
    """A step that could not be applied is done again on the same batch with the same draws; it was not counted."""

    step: int
    reason: str  # overflow, out_of_memory
    scale: float | None = None
    micro_split: int | None = None
    gradient_checkpointing: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSaved(Event):
    """A state is on disk, complete and verified."""

    step: int
    path: str
    sha256: str  # of its manifest
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterExported(Event):
    """A file for the WebUI is on disk, complete and checked."""

    step: int
    path: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated(Event):
    """What was measured at a step, nothing of it made up: a measure that could not be taken is None, and
    `unavailable` says why by a code (a sentence `unavailable.<code>`)."""

    step: int
    is_control: bool  # the same measures with the adapter off: drawn as step 0
    visual: float | None = None  # means over the examples
    semantic: float | None = None
    color: float | None = None
    validation: dict[str, Any] | None = None  # loss, standard_error (None with one example), examples (how many),
    # is_held_out, quantiles, by_quantile, by_example (means, in the order of the examples)
    unavailable: dict[str, str] = field(default_factory=dict)  # visual, semantic, color, validation -> code
    samples: list[dict[str, Any]] = field(default_factory=list)  # path (from the run folder), prompt, seed, example
    # (path of the picture it is compared with, None for a --sample-prompt), visual, semantic, color,
    # nearest (path of the training picture most like it) and nearest_similarity, each None where not measured
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BestChosen(Event):
    """The step with the lowest validation loss on held-out pictures so far, and its export."""

    step: int
    loss: float
    standard_error: float | None  # None: a single picture is held out, so nothing says how far it can be trusted
    path: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned(Event):
    """Something a person should know: the sentence `warning.<code>`."""

    code: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStopped(Event):
    """The last line of an attempt that could still write one."""

    step: int | None  # None: it never began
    reason: str  # reached, asked, failed
    code: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    traceback: str = ""
    exit_code: int = 0


# -- the supervisor's own ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStarted(Event):
    """A worker process was started."""

    worker_pid: int
    supervisor_pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEnded(Event):
    """A worker process is gone: its exit status, negative for a signal, and the end of what it printed if that is not
    0."""

    status: int
    output: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerHung(Event):
    """A worker gave no sign of life for longer than it may, and is ended."""

    step: int  # the last one completed
    phase: str
    silent_seconds: float
    limit_seconds: float
    stack: str  # of all its threads; "": it could not give one
    is_stopped: bool  # by a signal or a debugger: then it has no stack to give


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRestarted(Event):
    """A worker takes the place of one that crashed or hung. `attempt` is its own."""

    after: str  # crashed, hung
    reason: str
    step: int | None  # of the state it goes on from; None: none was saved, it begins anew
    in_vain: int  # restarts in a row, this one included, since a step was reached that was not before


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRaised(Event):
    """The time that the whole run may take was up, but it is moving: by what its steps took it now has more."""

    spent_seconds: float  # between completed steps
    limit_seconds: float
    seconds_per_step: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp(Event):
    """The run is not tried again: the sentence `error.<code>`."""

    code: str
    fields: dict[str, Any] = field(default_factory=dict)
    exit_code: int = 0


EVENTS: dict[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        DeviceChosen,
        CacheProgress,
        RunStarted,
        StepCompleted,
        StepRepeated,
        CheckpointSaved,
        AdapterExported,
        Evaluated,
        BestChosen,
        Warned,
        RunStopped,
        WorkerStarted,
        WorkerEnded,
        WorkerHung,
        WorkerRestarted,
        LimitRaised,
        GivenUp,
    )
}


def encode(event: Event) -> bytes:
    """One line of JSON, with its newline. Numbers that are not finite are refused: none may reach a ledger."""
    plain = {"event": type(event).__name__, **asdict(event)}
    try:
        return json.dumps(plain, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:  # a file name that is no text: escaped, so that the line still is
        return json.dumps(plain, allow_nan=False).encode() + b"\n"


def decode(line: bytes) -> Event | None:
    """The event of a line; None where this version does not know it.

    Raises:
        ValueError: not a whole line of ours.
    """
    plain = json.loads(line.decode())
    if not isinstance(plain, dict) or not isinstance(plain.get("event"), str):
        raise ValueError("not an event")
    kind = EVENTS.get(plain.pop("event"))
    if kind is None:
        return None
    known = {one.name for one in fields(kind)}
    try:
        return kind(**{name: value for name, value in plain.items() if name in known})
    except TypeError as error:
        raise ValueError(f"not an event: {error}") from None
