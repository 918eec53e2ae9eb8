"""What a run is: frozen sections, and the only place with defaults. Imports nothing heavier than pydantic.

Inert: reading a config starts nothing, opens nothing and fills nothing in. What `auto` becomes on this machine is
decided by whoever can see the machine, and stored resolved.
"""

from lorasmith.config.fields import Option
from lorasmith.config.request import Request
from lorasmith.config.run import RunConfig, options
from lorasmith.config.sections import (
    AdapterConfig,
    CadenceConfig,
    DatasetConfig,
    ExportConfig,
    LrScheduleConfig,
    MachineConfig,
    ModelConfig,
    OptimizerConfig,
    TrainingConfig,
)
from lorasmith.config.toml_files import dump_run_toml, load_flat_toml, load_run_toml

__all__ = [
    "AdapterConfig",
    "CadenceConfig",
    "DatasetConfig",
    "ExportConfig",
    "LrScheduleConfig",
    "MachineConfig",
    "ModelConfig",
    "OptimizerConfig",
    "Option",
    "Request",
    "RunConfig",
    "TrainingConfig",
    "dump_run_toml",
    "load_flat_toml",
    "load_run_toml",
    "options",
]
