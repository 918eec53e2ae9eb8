"""Everything that can happen in a run, as data: a frozen dataclass for each kind of event, a JSON line for each event.

Events carry codes and numbers, never sentences. An event of an unknown kind is read as None, so an older program can
read a newer ledger.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The base of all events. `time` is wall-clock seconds since 1970, for people; nothing is decided by it."""

    attempt: int
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceChosen(Event):
    """A worker has chosen device and precision: its first event."""

    device: str
    name: str
    reason: str  # a code: kept, or a reason of `engine.device.Device`
    precision: str
    precision_reason: str
    threads: int
    peak_flops: float = 0.0  # that the maker states for dense products in this precision, in a second; 0: unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheProgress(Event):
    """Number of pictures and captions encoded so far, of those missing in the cache."""

    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapesPrepared(Event):
    """Number of shapes of micro-batches that are recorded or compiled so far, before the first step."""

    execution: str  # graph, compiled
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """A start has loaded everything; written before its first step."""

    identity: str
    resumed_from: int | None  # the step of the state, None with --new
    stop_at: int
    settings: dict[str, Any]
    changed: dict[str, list[Any]] = field(default_factory=dict)  # option -> [before, now]
    examples: list[dict[str, Any]] = field(default_factory=list)  # path, fingerprint, sha256, repeats, bucket; by id
    held_out: list[str] = field(default_factory=list)  # paths
    batches_per_epoch: int = 0
    fingerprint: dict[str, Any] = field(default_factory=dict)  # software, device, threads
    root: str = ""  # path of the run folder at that time; "" in ledgers of older versions
    noise_levels: list[float] = field(default_factory=list)  # share of the examples by level, of flow matching


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCompleted(Event):
    """An optimizer update was applied; `loss` is the mean over its examples."""

    step: int
    epoch: int
    loss: float
    lr: dict[str, float]  # by component
    grad_norm: float
    example_ids: list[int]
    seconds: float
    peak_memory: int  # bytes
    flop: float = 0.0  # floating-point operations of the model and the adapter; 0: unknown
    waited_seconds: float = 0.0  # for numbers of a step, on a device that computes beside this program
    recordings: int = 0  # graphs recorded or compiled since the step before


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRepeated(Event):
    """A step could not be applied and is repeated with the same batch and draws; it was not counted."""

    step: int
    reason: str  # overflow, out_of_memory
    # What has changed, each None where it has not.
    scale: float | None = None
    micro_split: int | None = None
    gradient_checkpointing: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSaved(Event):
    """A state is on the disk, complete and verified."""

    step: int
    path: str
    sha256: str  # of its manifest
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterExported(Event):
    """A LoRA for the WebUI is on the disk, complete and checked."""

    step: int
    path: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated(Event):
    """A step was evaluated. A measure that could not be taken is None, and `unavailable` holds the code of the reason
    (the sentence `unavailable.<code>`)."""

    step: int
    is_control: bool  # the baseline: measured with the adapter off, drawn as step 0
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
    """A step has the lowest validation loss on held-out pictures so far; its export was copied."""

    step: int
    loss: float
    standard_error: float | None  # None: a single picture is held out, so there is no error to estimate
    path: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned(Event):
    """A warning for the user: the sentence `warning.<code>`."""

    code: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStopped(Event):
    """An attempt has ended: its last event, if it could still write one."""

    step: int | None  # None: the attempt never began
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
    """A worker process has exited. `status` is negative for a signal; `output` is the end of what it printed if the
    status is not 0."""

    status: int
    output: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerHung(Event):
    """A worker gave no heartbeat for longer than the limit, and is killed."""

    step: int  # the last completed step
    phase: str
    silent_seconds: float
    limit_seconds: float
    stack: str  # of all its threads; "" if it could not print them
    is_stopped: bool  # by a signal or a debugger: then it cannot print its stack


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRestarted(Event):
    """A worker replaces a worker that crashed or hung. `attempt` is that of the new worker."""

    after: str  # crashed, hung
    reason: str
    step: int | None  # of the state it resumes from; None: no state was saved, it starts from the beginning
    in_vain: int  # restarts in a row, this one included, since the highest completed step last grew


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRaised(Event):
    """The time limit of the run was reached while steps were still being completed: it was raised."""

    spent_seconds: float  # between completed steps
    limit_seconds: float
    seconds_per_step: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp(Event):
    """The run is not restarted any more: the sentence `error.<code>`."""

    code: str
    fields: dict[str, Any] = field(default_factory=dict)
    exit_code: int = 0


EVENTS: dict[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        DeviceChosen,
        CacheProgress,
        ShapesPrepared,
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
    """Encodes an event as a line of JSON with its newline.

    Raises:
        ValueError: a number is not finite: none may reach a ledger.
    """
    plain = {"event": type(event).__name__, **asdict(event)}
    try:
        return json.dumps(plain, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:  # a file name that is no valid text: escaped
        return json.dumps(plain, allow_nan=False).encode() + b"\n"


def decode(line: bytes) -> Event | None:
    """Decodes the event of a line; None if this version does not know its kind.

    Raises:
        ValueError: the line is no event, or not complete.
    """
    plain = json.loads(line.decode())
    if not isinstance(plain, dict) or not isinstance(plain.get("event"), str):
        raise ValueError("not an event")
    kind = EVENTS.get(plain.pop("event"))
    if kind is None:
        return None
    known = {field.name for field in fields(kind)}
    try:
        return kind(**{name: value for name, value in plain.items() if name in known})
    except TypeError as error:
        raise ValueError(f"not an event: {error}") from None
