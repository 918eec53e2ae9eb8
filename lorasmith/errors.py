"""Every error that the program reports, and the exit code that each ends it with.

TrainerError                     code, fields, exit_code
├─ InputError                    the user can fix it; never restarted           BAD_INPUT 2
│  ├─ ConfigError                unknown key, wrong type, bad combination
│  ├─ DatasetError               empty folder, unreadable picture, undecodable caption
│  ├─ ModelError                 unknown family, missing or foreign weights
│  └─ ResumeError                another identity than the run's
│     └─ NoStateError            nothing to continue from                       NO_STATE 4
├─ LockedError                   another run holds the folder                   LOCKED 3
├─ ResourceError                 out of memory, disk full                       NO_RESOURCE 6
├─ NonFiniteError                loss, gradient or weight                       NON_FINITE 8
└─ StopRequested                 a stop request before there was a run          STOPPED 5

An error carries a code and fields, never a sentence: the sentences are in `messages/`, under `error.<code>`.
"""

from enum import IntEnum
from typing import Any, ClassVar


class ExitCode(IntEnum):
    """Exit statuses of `lorasmith`."""

    FINISHED = 0
    BAD_INPUT = 2
    LOCKED = 3
    NO_STATE = 4
    STOPPED = 5
    NO_RESOURCE = 6
    STUCK = 7
    NON_FINITE = 8
    CRASHED = 70


class TrainerError(Exception):
    """An error for the user. `fields` fill the sentence `error.<code>`; they hold JSON values only."""

    exit_code: ClassVar[ExitCode] = ExitCode.CRASHED

    def __init__(self, code: str, /, **fields: Any) -> None:
        super().__init__(code, fields)
        self.code = code
        self.fields = fields

    def __str__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.fields.items())
        return f"{self.code}({shown})"


class InputError(TrainerError):
    """An error that the user can correct; raised before anything on disk is changed."""

    exit_code = ExitCode.BAD_INPUT


class ConfigError(InputError):
    """A setting that is unknown, of the wrong type, out of range or at odds with another."""


class DatasetError(InputError):
    """The folder of pictures cannot be trained on as it is.

    Where single files are at fault, `problems` lists them all as {"path", "reason", "fields"}: the sentence of each
    is `problem.<reason>`.
    """


class ModelError(InputError):
    """The base model, or a LoRA given to start from, is not what it should be."""


class ResumeError(InputError):
    """The state belongs to a run with settings other than those requested."""


class NoStateError(ResumeError):
    """There is no run here, or no state of it that can be used."""

    exit_code = ExitCode.NO_STATE


class LockedError(TrainerError):
    """Another run holds the folder."""

    exit_code = ExitCode.LOCKED


class ResourceError(TrainerError):
    """Memory or disk ran out, and no retry helped."""

    exit_code = ExitCode.NO_RESOURCE


class NonFiniteError(TrainerError):
    """A loss, gradient or weight became infinite or not a number; nothing of it was applied."""

    exit_code = ExitCode.NON_FINITE


class StopRequested(TrainerError):
    """A stop was requested while model and data were loading; no step was begun."""

    exit_code = ExitCode.STOPPED
