"""The whole config of a run, its options and its identity."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError, model_validator

from lorasmith.config.fields import BEYOND_LOCALE, Option, Section, declared, option, options_of, recorded
from lorasmith.config.request import Request
from lorasmith.config.sections import (
    AdapterConfig,
    AugmentationConfig,
    CadenceConfig,
    CaptionsConfig,
    DatasetConfig,
    EvaluationConfig,
    ExportConfig,
    LossConfig,
    LrScheduleConfig,
    MachineConfig,
    ModelConfig,
    NoiseConfig,
    OptimizerConfig,
    TrainingConfig,
    Unused,
    WatchConfig,
)
from lorasmith.config.subsets import Subset, resolved_subsets
from lorasmith.errors import ConfigError
from lorasmith.file_names import name_beyond_locale

MAX_SHOWN = 200  # letters of a value in a message
FIRST_IDENTITY = frozenset(
    {"base-model", "family", "prediction", "adapter", "rank", "alpha", "train-text-encoder", "seed"}
    | {"optimizer", "optimizer-option"}
)
"""Names in the identity of the first version. A field that was added later is part of the identity only where it is not
at its default, so that runs made before it keep their identity."""


class RunConfig(Section):
    """All settings of a run.

    run.toml in the run folder keeps them. --continue replaces that file atomically where settings changed.
    """

    seed: int = option("seed", 42, effect="identity", common=True, ge=0, lt=2**63)
    given: tuple[str, ...] | None = recorded(None, effect="cadence")
    """The options that a person has set to something else than their defaults; None in runs of older versions."""
    model: ModelConfig = ModelConfig()
    dataset: DatasetConfig = DatasetConfig()
    captions: CaptionsConfig = CaptionsConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    adapter: AdapterConfig = AdapterConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    lr_schedule: LrScheduleConfig = LrScheduleConfig()
    training: TrainingConfig = TrainingConfig()
    loss: LossConfig = LossConfig()
    noise: NoiseConfig = NoiseConfig()
    machine: MachineConfig = MachineConfig()
    cadence: CadenceConfig = CadenceConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    watch: WatchConfig = WatchConfig()
    export: ExportConfig = ExportConfig()

    @property
    def evaluate_every(self) -> int:
        """Steps between evaluations, those between saved states where nothing is set; 0 never."""
        if self.evaluation.every is not None:
            return self.evaluation.every
        return 0 if self.evaluation.every_n_epochs else self.cadence.save_every

    def epochs_between_evaluations(self, epochs: int) -> int:
        """Epochs between evaluations in a run of that length; where nothing is set, those between saved states."""
        if self.evaluation.every is None and not self.evaluation.every_n_epochs:
            return self.cadence.epochs_between_saves(epochs)
        return self.evaluation.every_n_epochs

    @property
    def is_evaluated(self) -> bool:
        return self.evaluate_every > 0 or self.epochs_between_evaluations(1) > 0

    def subsets(self) -> tuple[Subset, ...]:
        """The parts of the dataset, each with its folder and its settings; at least one."""
        return resolved_subsets(self, options())

    @model_validator(mode="after")
    def _subsets_are_valid(self) -> "RunConfig":
        if self.dataset.subsets:
            self.subsets()
        return self

    @property
    def unused_options(self) -> tuple[Unused, ...]:
        """The options that are set and have no effect on this run."""
        of_subsets = [subset.config.captions.unused_options for subset in self.subsets()]
        of_captions = (unused for unused in of_subsets[0] if all(unused in others for others in of_subsets))
        own = (self.loss, self.noise, self.lr_schedule)
        return (*(unused for section in own for unused in section.unused_options), *of_captions)

    def identity_values(self) -> dict[str, Any]:
        """The settings whose effect is `identity`, by option name."""
        found: dict[str, Any] = {}
        for section, model in sections(type(self)):
            part = getattr(self, section) if section else self
            for field_name, _, facts in declared(model):
                if facts.effect == "identity" and facts.name and not facts.identified_by:
                    value = getattr(part, field_name)
                    free = facts.free_keys
                    found[facts.name] = {k: v for k, v in value.items() if k not in free} if free else value
        return found

    def identity_fields(self) -> dict[str, Any]:
        """The settings that the tensors of a state depend on, by option name: a state refuses a run with others."""
        defaults = type(self)().identity_values()
        values = self.identity_values().items()
        return {name: value for name, value in values if name in FIRST_IDENTITY or value != defaults[name]}

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


@cache
def options() -> Mapping[str, Option]:
    """Every option of `train` that is a setting, by its TOML key: those of a start first."""
    own = [item for section, model in sections() for item in options_of(section, model)]
    return MappingProxyType({item.key: item for item in [*options_of("request", Request), *own]})


def sections(config: type[RunConfig] | None = None) -> list[tuple[str, type[Section]]]:
    """The sections of a run's config by name, and the config's own fields as section ""."""
    config = config or RunConfig
    kinds = {name: field.annotation for name, field in config.model_fields.items()}
    found = [(name, kind) for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Section)]
    return [*found, ("", config)]


M = TypeVar("M", bound=BaseModel)


def validated(model: type[M], plain: Mapping[str, Any]) -> M:
    """`model` from plain values.

    Raises:
        ConfigError: in place of pydantic's complaint; `option` names the option it is about.
    """
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
    """A value as a message shows it, shortened."""
    try:
        return repr(value)[:MAX_SHOWN]
    except ValueError:  # a number of more digits than Python writes out
        return type(value).__name__


def _option_at(model: type[BaseModel], location: list[str]) -> str:
    """The name of the option at a location of pydantic: `rank` rather than `adapter.rank`."""
    for known in options().values():
        where = [known.section, known.field_name] if known.section and model is RunConfig else [known.field_name]
        if location[: len(where)] == where:
            return known.name
    return ".".join(location)
