"""Sections `optimizer` and `lr_schedule`: how gradients become updates, and the learning rate over time."""

import math
import re
from typing import Annotated, Any

from pydantic import Field, field_serializer, field_validator

from lorasmith.config.fields import Section, option

OPTIMIZER_NAMES = ("adamw", "adamw8bit", "adafactor", "lion", "prodigy")
LR_SHAPES = ("constant", "linear", "cosine", "cosine_with_restarts")


class OptimizerConfig(Section):
    """The optimizer, its options and the learning rates."""

    name: str = option("optimizer", "adamw", effect="identity", common=True)
    """A member of OPTIMIZER_NAMES; `engine.optimizers.OPTIMIZERS` has their constructors."""
    lr: float = option("lr", 1e-4, effect="learning", common=True, ge=0)
    """Learning rate of the denoiser's pairs, before the schedule's factor."""
    text_encoder_lr: tuple[Annotated[float, Field(ge=0)], ...] = option("text-encoder-lr", (), effect="learning")
    """Learning rate of the text encoders' pairs: of all of them, or of each in order. (): that of the denoiser."""
    options: dict[str, Any] = option("optimizer-option", {}, effect="identity", free_keys=("lr",))
    """Passed to the optimizer's constructor, checked against its signature."""

    @field_validator("name")
    @classmethod
    def _in_small_letters(cls, value: str) -> str:
        return value.lower()  # other trainers write AdamW8bit

    @field_validator("options")
    @classmethod
    def _kept_by_toml(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not _comes_back_from_toml(value):
            raise ValueError("must be finite numbers, texts, true, false, or lists and tables of them")
        return value

    @field_validator("text_encoder_lr", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if value is None:
            return ()
        return value if isinstance(value, list | tuple) else (value,)

    @field_serializer("text_encoder_lr")
    def _unlisted(self, value: tuple[float, ...]) -> float | list[float] | None:
        """A single rate as a number, and none as None: as in the files of runs that had no more."""
        return list(value) if len(value) > 1 else next(iter(value), None)

    def resolved_text_encoder_lr(self, count: int) -> tuple[float, ...]:
        """The rate of each of `count` text encoders."""
        return self.text_encoder_lr if len(self.text_encoder_lr) > 1 else (*self.text_encoder_lr, self.lr)[:1] * count


class LrScheduleConfig(Section):
    """The factor of the learning rate, by step."""

    shape: str = option("lr-schedule", "constant", effect="learning", common=True)
    """A member of LR_SHAPES; `cosine_with_restarts:3` has 3 cycles."""
    warmup_steps: int = option("lr-warmup", 0, effect="learning", ge=0)
    """Steps over which the factor rises from 0 to 1."""
    horizon_steps: int | None = option("lr-horizon", None, effect="learning", ge=1)
    """The step at which the shape ends. None: the target of each start."""

    @field_validator("shape")
    @classmethod
    def _known_shape(cls, value: str) -> str:
        value = value.lower()
        if not re.fullmatch(rf"({'|'.join(LR_SHAPES)})|cosine_with_restarts:[1-9][0-9]*", value):
            raise ValueError(f"must be one of {', '.join(LR_SHAPES)}[:CYCLES]")
        return value

    def resolved_horizon(self, stop_at: int) -> int:
        """`horizon_steps`, or the target `stop_at` of a start where it is unset."""
        return stop_at if self.horizon_steps is None else self.horizon_steps


def _comes_back_from_toml(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _comes_back_from_toml(item) for key, item in value.items())
    if isinstance(value, list):
        return all(_comes_back_from_toml(item) for item in value)
    return isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))
