"""Sections `optimizer` and `lr_schedule`: how gradients become updates, and the learning rate over time."""

import math
import re
from typing import Annotated, Any

from pydantic import Field, field_serializer, field_validator

from lorasmith.config.fields import Section, declared, option
from lorasmith.config.optimizer_table import canonical_name
from lorasmith.config.sections.adapter import flat_table
from lorasmith.config.sections.objective import Unused
from lorasmith.errors import ConfigError

BlockFactor = Annotated[float, Field(gt=0, le=1e6)]
LR_SHAPES = {
    "constant": (),
    "constant_with_warmup": (),
    "linear": (),
    "cosine": (),
    "cosine_with_restarts": ("cycles",),
    "cosine_with_min_lr": ("cycles", "min_ratio", "min_lr"),
    "polynomial": ("power", "lr_end"),
    "inverse_sqrt": ("timescale",),
    "warmup_stable_decay": ("decay_steps", "cycles", "min_ratio", "decay_type"),
    "piecewise_constant": ("step_rules",),
}
"""Shape -> the fields of LrScheduleConfig that it reads, and the names it takes in `args`."""

DECAY_TYPES = ("linear", "cosine", "1-sqrt")
_CLASS = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+"
_RULES = re.compile(r"(\d+(\.\d*)?(e-?\d+)?:\d+,)*\d+(\.\d*)?(e-?\d+)?", re.ASCII)


class OptimizerConfig(Section):
    """The optimizer, its options and the learning rates."""

    name: str = option("optimizer", "adamw", effect="identity", common=True)
    """A key of `optimizer_table.OPTIMIZERS`, or `package.module.Class`."""
    lr: float = option("lr", 1e-4, effect="learning", common=True, ge=0)
    """Learning rate of the denoiser's pairs, before the schedule's factor."""
    text_encoder_lr: tuple[Annotated[float, Field(ge=0)], ...] = option("text-encoder-lr", (), effect="learning")
    """Learning rate of the text encoders' pairs: of all of them, or of each in order. (): that of the denoiser."""
    block_lrs: dict[str, BlockFactor] = option("block-lr", {}, effect="identity")
    """The rates of the layers in a block of the denoiser, by its name, as multiples of `lr`."""
    loraplus_lr_ratio: float | None = option("loraplus-lr-ratio", None, effect="identity", gt=0)
    """Rates of the matrices behind each pair's inner dimension, `lora_up`, as multiples of the rate (LoRA+, Hayou et
    al. 2024, arXiv:2402.12354). None: 1."""
    loraplus_unet_lr_ratio: float | None = option("loraplus-unet-lr-ratio", None, effect="identity", gt=0)
    """The same of the denoiser. None: `loraplus_lr_ratio`."""
    loraplus_text_encoder_lr_ratio: float | None = option(
        "loraplus-text-encoder-lr-ratio", None, effect="identity", gt=0
    )
    """The same of the text encoders. None: `loraplus_lr_ratio`."""
    options: dict[str, Any] = option("optimizer-option", {}, effect="identity", free_keys=("lr",))
    """Passed to the optimizer's constructor, checked against its signature."""

    @field_validator("name")
    @classmethod
    def _canonical(cls, value: str) -> str:
        return canonical_name(value)  # other trainers write AdamW8bit

    @field_validator("options")
    @classmethod
    def _kept_by_toml(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not _comes_back_from_toml(value):
            raise ValueError("must be finite numbers, texts, true, false, or lists and tables of them")
        return value

    @field_validator("block_lrs", mode="before")
    @classmethod
    def _without_tables(cls, value: Any) -> Any:
        """Accepts `down_blocks.1 = 0.5` without quotes, which is a table within a table in TOML."""
        return dict(flat_table(value)) if isinstance(value, dict) else value

    @property
    def options_of_groups(self) -> list[str]:
        """The names of set options that give parts of a component other rates."""
        names = ("block_lrs", "loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")
        return [facts.name for name, _, facts in declared(type(self)) if name in names and getattr(self, name)]

    def up_ratio(self, component: str) -> float:
        """The multiple of the rate that the `lora_up` matrices of a component have."""
        own = self.loraplus_unet_lr_ratio if component == "denoiser" else self.loraplus_text_encoder_lr_ratio
        return own or self.loraplus_lr_ratio or 1.0

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
    """A key of LR_SHAPES, `cosine_with_restarts:3` with 3 cycles, or `package.module.Class` of a scheduler of torch."""
    warmup_steps: int = option("lr-warmup", 0, effect="learning", ge=0)
    """Steps over which the factor rises from 0 to 1."""
    horizon_steps: int | None = option("lr-horizon", None, effect="learning", ge=1)
    """The step at which the shape ends. None: the target of each start."""
    cycles: int | None = option("lr-scheduler-num-cycles", None, effect="learning", ge=1, le=1_000_000)
    """Restarts of `cosine_with_restarts`, falls and rises of `cosine_with_min_lr`. None: 1."""
    power: float = option("lr-scheduler-power", 1.0, effect="learning", gt=0)
    """Exponent of `polynomial`."""
    timescale: int | None = option("lr-scheduler-timescale", None, effect="learning", ge=1)
    """`inverse_sqrt`: steps until the factor has fallen to 1 / sqrt(2). None: the warm-up, or 10000 without any."""
    min_ratio: float = option("lr-scheduler-min-lr-ratio", 0.0, effect="learning", ge=0, le=1)
    """The smallest factor of `cosine_with_min_lr` and `warmup_stable_decay`."""
    decay_steps: int = option("lr-decay-steps", 0, effect="learning", ge=0)
    """Steps of the fall at the end of `warmup_stable_decay`."""
    args: dict[str, Any] = option("lr-scheduler-args", {}, effect="learning")
    """Options of a single shape (`lr_end`, `min_lr`, `decay_type`, `step_rules`), or those of the class."""

    @field_validator("shape")
    @classmethod
    def _known_shape(cls, value: str) -> str:
        if re.fullmatch(_CLASS, value, re.ASCII):
            return value
        value = value.lower()
        if not re.fullmatch(rf"({'|'.join(LR_SHAPES)})|cosine_with_restarts:[1-9][0-9]*", value):
            raise ValueError(f"must be one of {', '.join(LR_SHAPES)}, cosine_with_restarts:CYCLES, or a class")
        return value

    @field_validator("args")
    @classmethod
    def _kept_by_toml(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not _comes_back_from_toml(value):
            raise ValueError("must be finite numbers, texts, true, false, or lists and tables of them")
        return value

    @property
    def is_class(self) -> bool:
        """Whether the shape is a class of a library, which is replayed."""
        return "." in self.shape

    @property
    def name(self) -> str:
        """The shape without its cycles."""
        return self.shape.partition(":")[0]

    @property
    def resolved_cycles(self) -> int:
        """The cycles of `shape` or of `cycles`, 1 where there are none."""
        return int(self.shape.partition(":")[2] or self.cycles or 1)

    @property
    def resolved_timescale(self) -> int:
        """`timescale`, or what stands for it being unset."""
        return self.timescale or self.warmup_steps or 10_000

    @property
    def unused_options(self) -> tuple[Unused, ...]:
        """Options that are set and that this shape does not read."""
        used = ("args",) if self.is_class else LR_SHAPES[self.name]
        unused = []
        for name, field, facts in declared(type(self)):
            readers = [shape for shape, read in LR_SHAPES.items() if name in read]
            if readers and name not in used and getattr(self, name) != field.default:
                unused.append(Unused(facts.name, f"--lr-schedule {'|'.join(readers)}"))
        return tuple(unused)

    def resolved_horizon(self, stop_at: int) -> int:
        """`horizon_steps`, or the target `stop_at` of a start where it is unset."""
        return stop_at if self.horizon_steps is None else self.horizon_steps

    def check(self, lr: float) -> None:
        """Refuses options that contradict each other. `lr`: the learning rate of the denoiser.

        Raises:
            ConfigError: `lr_scheduler_args_unknown`, `lr_scheduler_args_value`, `lr_step_rules_missing`,
                `lr_cycles_twice`, `lr_end_above`.
        """
        if self.is_class:
            return
        accepted = [name for name in LR_SHAPES[self.name] if name not in type(self).model_fields]
        for name, value in self.args.items():
            if name not in accepted:
                fields = {"option": name, "shape": self.name, "accepted": ", ".join(accepted) or "-"}
                raise ConfigError("lr_scheduler_args_unknown", **fields)
            if not _is_valid_arg(name, value):
                raise ConfigError("lr_scheduler_args_value", option=name, value=str(value), expected=_EXPECTED[name])
        if self.name == "piecewise_constant" and "step_rules" not in self.args:
            raise ConfigError("lr_step_rules_missing", example=_EXPECTED["step_rules"])
        if self.cycles is not None and ":" in self.shape:
            raise ConfigError("lr_cycles_twice", shape=self.shape, cycles=self.cycles)
        least = self.args.get("lr_end", self.args.get("min_lr", 0.0))
        if 0 < lr <= least:
            raise ConfigError("lr_end_above", option="lr_end" if "lr_end" in self.args else "min_lr", end=least, lr=lr)


_EXPECTED = {
    "lr_end": "a number, at least 0",
    "min_lr": "a number, at least 0",
    "decay_type": ", ".join(DECAY_TYPES),
    "step_rules": "FACTOR:STEP,...,FACTOR, as in 1:100,0.1:200,0.01",
}


def _is_valid_arg(name: str, value: Any) -> bool:
    if name == "decay_type":
        return value in DECAY_TYPES
    if name == "step_rules":
        return isinstance(value, str) and _RULES.fullmatch(value) is not None
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _comes_back_from_toml(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _comes_back_from_toml(item) for key, item in value.items())
    if isinstance(value, list):
        return all(_comes_back_from_toml(item) for item in value)
    return isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))
