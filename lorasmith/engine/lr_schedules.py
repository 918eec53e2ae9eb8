"""The learning-rate schedules as pure functions of the step, so that there is nothing to save or restore."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lorasmith.config import LrScheduleConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LrShape:
    """The factor on the learning rates, by step.

    Rises linearly during the warm-up and reaches 1 with its last step; then the shape begins with 1 at the next step
    and ends at the horizon. Steps beyond the horizon get the shape's last value.
    """

    name: str
    warmup_steps: int = 0
    horizon_steps: int
    cycles: int = 1
    power: float = 1.0
    timescale: int = 10_000
    least: float = 0.0  # the factor at the end of a shape that does not end at 0
    decay_steps: int = 0
    decay_type: str = "cosine"
    rules: tuple[tuple[int, float], ...] = ()  # (steps before which the factor holds, factor)
    last_rule: float = 1.0

    def factor_at(self, step: int) -> float:
        """The factor for the step being made (from 1)."""
        if step <= self.warmup_steps:
            return self._warm_up(step / self.warmup_steps)
        done = min(step - 1, max(self.horizon_steps, self.warmup_steps))
        if self.name == "inverse_sqrt":
            return 1.0 / math.sqrt((done + self.timescale - self.warmup_steps) / self.timescale)
        if self.name == "piecewise_constant":
            return next((factor for end, factor in self.rules if done < end), self.last_rule)
        if self.name == "warmup_stable_decay":
            return self._stable_then_falling(done)
        length = self.horizon_steps - self.warmup_steps
        return self._falling(1.0 if length <= 0 else min(1.0, (done - self.warmup_steps) / length))

    def _warm_up(self, progress: float) -> float:
        return progress * (1 - self.least) + self.least if self.name == "warmup_stable_decay" else progress

    def _falling(self, progress: float) -> float:
        """The shapes that are a function of the share of the way, from 0 to 1."""
        if self.name in ("constant", "constant_with_warmup"):
            return 1.0
        if self.name == "linear":
            return 1.0 - progress
        if self.name == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        if self.name == "polynomial":
            return (1.0 - self.least) * math.pow(1.0 - progress, self.power) + self.least
        if self.name == "cosine_with_min_lr":  # as many half waves as cycles: it rises again after the first
            return 0.5 * (1.0 + math.cos(math.pi * self.cycles * progress)) * (1.0 - self.least) + self.least
        assert self.name == "cosine_with_restarts", self.name
        # Loshchilov & Hutter 2017, with cycles of equal length.
        return 0.0 if progress >= 1.0 else 0.5 * (1.0 + math.cos(math.pi * ((progress * self.cycles) % 1.0)))

    def _stable_then_falling(self, done: int) -> float:
        """Hu et al. 2024 (arXiv:2404.06395): constant until the last `decay_steps`."""
        begin = self.horizon_steps - self.decay_steps
        if done < begin:
            return 1.0
        progress = (done - begin) / max(1, self.decay_steps)
        if progress >= 1.0 or self.decay_steps == 0:
            return self.least
        factor = {
            "linear": 1.0 - progress,
            "cosine": 0.5 * (1.0 + math.cos(math.pi * self.cycles * progress)),
            "1-sqrt": 1.0 - math.sqrt(progress),
        }[self.decay_type]
        return factor * (1.0 - self.least) + self.least


def lr_shape(schedule: LrScheduleConfig, *, lr: float, stop_at: int) -> LrShape:
    """The shape of a run that is to end at `stop_at`. `lr`: of the denoiser, of which `lr_end` and `min_lr` are a
    part."""
    assert not schedule.is_class
    args, least = schedule.args, schedule.min_ratio
    if schedule.name == "polynomial":
        least = float(args.get("lr_end", min(1e-7, lr))) / lr if lr > 0 else 0.0
    elif "min_lr" in args:
        least = float(args["min_lr"]) / lr if lr > 0 else 0.0
    *parts, last = str(args.get("step_rules", "1")).split(",")
    pairs = (part.split(":") for part in parts)
    return LrShape(
        name=schedule.name,
        warmup_steps=schedule.warmup_steps,
        horizon_steps=schedule.resolved_horizon(stop_at),
        cycles=schedule.resolved_cycles,
        power=schedule.power,
        timescale=schedule.resolved_timescale,
        least=least,
        decay_steps=schedule.decay_steps,
        decay_type=str(args.get("decay_type", "cosine")),
        rules=tuple(sorted((int(end), float(factor)) for factor, end in pairs)),
        last_rule=float(last),
    )
