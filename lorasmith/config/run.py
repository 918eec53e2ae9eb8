"""The whole config of a run, its options, and its identity."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from lorasmith.config.fields import BEYOND_LOCALE, Option, Section, option, options_of
from lorasmith.config.request import Request
from lorasmith.config.sections import (
    AdapterConfig,
    CadenceConfig,
    DatasetConfig,
    EvaluationConfig,
    ExportConfig,
    LrScheduleConfig,
    MachineConfig,
    ModelConfig,
    OptimizerConfig,
    TrainingConfig,
    WatchConfig,
)
from lorasmith.errors import ConfigError
from lorasmith.file_names import name_beyond_locale

MAX_SHOWN = 200  # letters of a value in a message


class RunConfig(Section):
    """Everything that decides what a run learns.

    Resolved at --new; kept as run.toml in the run folder, replaced atomically where --continue changes what it may.
    """

    seed: int = option("seed", 42, ge=0, lt=2**63)
    model: ModelConfig = ModelConfig()
    dataset: DatasetConfig = DatasetConfig()
    adapter: AdapterConfig = AdapterConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    lr_schedule: LrScheduleConfig = LrScheduleConfig()
    training: TrainingConfig = TrainingConfig()
    machine: MachineConfig = MachineConfig()
    cadence: CadenceConfig = CadenceConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    watch: WatchConfig = WatchConfig()
    export: ExportConfig = ExportConfig()

    @property
    def evaluate_every(self) -> int:
        """Steps between evaluations; 0 never."""
        return self.cadence.save_every if self.evaluation.every is None else self.evaluation.every

    def identity_fields(self) -> dict[str, Any]:
        """What the tensors of a state depend on, by option name: a state refuses a run that differs in one of them."""
        return {
            "base-model": self.model.base_sha256,
            "family": self.model.family,
            "prediction": self.model.prediction,
            "adapter": self.adapter.kind,
            "rank": self.adapter.rank,
            "alpha": self.adapter.alpha,
            "train-text-encoder": self.adapter.train_text_encoder,
            "seed": self.seed,
            "optimizer": self.optimizer.name,
            "optimizer-option": {k: v for k, v in self.optimizer.options.items() if k != "lr"},
        }

    def identity(self) -> str:
        """SHA-256 of `identity_fields` as canonical JSON."""
        text = json.dumps(self.identity_fields(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def with_values(self, values: Mapping[tuple[str, str], Any]) -> "RunConfig":
        """This config with fields replaced, {(section, field): value}, validated anew.

        Raises:
            ConfigError: a value of the wrong type or out of its range; `option` names it.
        """
        plain = self.model_dump()
        for (section, name), value in values.items():
            (plain[section] if section else plain)[name] = value
        return validated(RunConfig, plain)


def options() -> dict[str, Option]:
    """Every option of `train` that is a setting, by its TOML key."""
    found = options_of("request", Request)
    for name, field in RunConfig.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += options_of(name, kind)
    found += [one for one in options_of("", RunConfig)]
    return {one.key: one for one in found}


M = TypeVar("M", bound=BaseModel)


def validated(model: type[M], plain: Mapping[str, Any]) -> M:
    """`model` from plain values, with pydantic's complaint turned into ours."""
    try:
        return model.model_validate(plain)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == BEYOND_LOCALE:
            raise name_beyond_locale(str(first["input"])) from None
        raise ConfigError(
            "config_value",
            option=_option_at(model, [str(part) for part in first["loc"]]),
            value=_shown(first["input"]),
            expected=first["msg"],
        ) from None


def _shown(value: Any) -> str:
    """A value as a message can hold it."""
    try:
        return repr(value)[:MAX_SHOWN]
    except ValueError:  # a number of more digits than Python writes out
        return type(value).__name__


def _option_at(model: type[BaseModel], location: list[str]) -> str:
    """The option a complaint is about: `--rank` rather than `adapter.rank`."""
    for one in options().values():
        where = [one.section, one.field_name] if one.section and model is RunConfig else [one.field_name]
        if location[: len(where)] == where:
            return one.name
    return ".".join(location)
