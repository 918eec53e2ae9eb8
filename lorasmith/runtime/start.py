"""One start of a run, as the supervisor needs it: where, how far, from what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorasmith.config import RunConfig
from lorasmith.runs.layout import RunFolder


@dataclass(frozen=True, slots=True)
class Start:
    """Worked out and checked by `runtime.starting`; nothing was written yet."""

    run: RunFolder
    config: RunConfig
    stop_at: int
    is_new: bool
    first_step: int  # steps done before
    resume: Path | None = None  # the state to go on from
    warnings: tuple[tuple[str, dict[str, Any]], ...] = ()  # (code, fields)
    seen: bytes = field(default=b"", compare=False)  # what was read of the pictures, as `data.seen` keeps it
    # The same wish, by how the run stands when it is called.
    replan: Callable[[], Start] | None = field(default=None, compare=False)

    @property
    def owes_steps(self) -> bool:
        """False: all are done, and only what comes after the last one was cut short."""
        return self.first_step < self.stop_at

    def again(self) -> Start:
        """This start as it has to be now that nobody else can change the run.

        Raises:
            InputError: as the planning does.
        """
        return self if self.replan is None else self.replan()
