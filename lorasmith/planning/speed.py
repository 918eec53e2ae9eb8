"""Tries batch sizes: trains a few steps with each in a temporary folder, and measures pictures in a second and memory.

For a person to choose by. Nothing of a run follows from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lorasmith.data.folder import Scan
from lorasmith.planning.estimate import ProbeResult, Unmeasured
from lorasmith.planning.probe import probe

if TYPE_CHECKING:
    from lorasmith.runtime.preflight import Start

BATCH_SIZES = (1, 2, 4, 8, 16)
NO_FASTER = 1.02  # times the pictures in a second of the size before: with less, larger sizes gain nothing either
NO_MEMORY = Unmeasured("trial_no_memory", {})

Probe = Callable[..., ProbeResult | Unmeasured]


@dataclass(frozen=True, slots=True)
class Trial:
    """A batch size and what was measured with it."""

    batch_size: int
    measured: ProbeResult | Unmeasured

    @property
    def pictures_per_second(self) -> float | None:
        """In a step without accumulation."""
        measured = self.measured
        return self.batch_size / measured.step_seconds if isinstance(measured, ProbeResult) else None

    @property
    def flops(self) -> float | None:
        """Floating-point operations in a second; None where they were not counted."""
        measured = self.measured
        return (measured.step_flop / measured.step_seconds or None) if isinstance(measured, ProbeResult) else None

    @property
    def share_of_peak(self) -> float | None:
        """The share of the peak that the maker states, or else of what a large product of matrices reached there."""
        measured = self.measured
        if self.flops is None or not isinstance(measured, ProbeResult):
            return None
        peak = measured.peak_flops or measured.matrix_flops
        return self.flops / peak if peak else None


def try_batch_sizes(start: Start, found: Scan, *, probe: Probe = probe) -> Iterator[Trial]:
    """Yields a trial for each size, up to the first that does not fit or after which more would not be faster.

    Raises:
        InputError: the run would be refused.
    """
    fastest, peaks = 0.0, list[int]()
    for size in BATCH_SIZES:
        if _would_not_fit(peaks):
            yield Trial(size, NO_MEMORY)
            return
        measured = probe(start, found, batch_size=size)
        if isinstance(measured, ProbeResult) and measured.was_split:
            measured = NO_MEMORY
        trial = Trial(size, measured)
        yield trial
        speed = trial.pictures_per_second
        if speed is None or not isinstance(measured, ProbeResult) or speed < NO_FASTER * fastest:
            return
        fastest = speed
        peaks += [] if measured.has_own_memory else [measured.peak_memory]


def _would_not_fit(peaks: list[int]) -> bool:
    """Whether twice the batch would need more memory than the computer has free, where it would not be refused but
    taken from other programs. The first trial tells nothing of how memory grows."""
    if len(peaks) < 2:
        return False
    import psutil  # only where it is needed: it cannot be imported everywhere

    return bool(peaks[-1] + 2 * (peaks[-1] - peaks[-2]) > psutil.virtual_memory().available)


def as_plain(trial: Trial) -> dict[str, Any]:
    """The trial as JSON values."""
    measured = trial.measured
    plain: dict[str, Any] = {"batch_size": trial.batch_size}
    if isinstance(measured, Unmeasured):
        return {**plain, **asdict(measured)}
    return {
        **plain,
        "device": measured.device,
        "device_name": measured.device_name,
        "precision": measured.precision,
        "step_seconds": measured.step_seconds,
        "pictures_per_second": trial.pictures_per_second,
        "peak_memory": measured.peak_memory,
        "flops": trial.flops,
        "share_of_peak": trial.share_of_peak,
        "peak_flops": measured.peak_flops or None,  # 0: not known
        "matrix_flops": measured.matrix_flops or None,
    }
