"""The settings of a run in frozen sections, and the only place with their defaults. Imports pydantic, nothing slower.

Reading a config has no effects. Code that knows the machine and the base model decides what `auto` becomes, and stores
the result in the config.
"""

from lorasmith.config.fields import Option
from lorasmith.config.request import Request
from lorasmith.config.run import RunConfig, options
from lorasmith.config.sections import (
    AdapterConfig,
    CadenceConfig,
    CaptionsConfig,
    DatasetConfig,
    ExportConfig,
    LrScheduleConfig,
    MachineConfig,
    ModelConfig,
    OptimizerConfig,
    TrainingConfig,
)
from lorasmith.config.subsets import Subset
from lorasmith.config.toml_files import dump_run_toml, load_flat_toml, load_run_toml

__all__ = [
    "AdapterConfig",
    "CadenceConfig",
    "CaptionsConfig",
    "DatasetConfig",
    "ExportConfig",
    "LrScheduleConfig",
    "MachineConfig",
    "ModelConfig",
    "OptimizerConfig",
    "Option",
    "Request",
    "RunConfig",
    "Subset",
    "TrainingConfig",
    "dump_run_toml",
    "load_flat_toml",
    "load_run_toml",
    "options",
]
