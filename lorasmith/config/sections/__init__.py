"""The sections of a run's config, a file per subject. A field is one setting with its unit, its default and its effect.

A setting that may stay unset has a `resolved_...` beside it, which is the only place that knows what unset means; what
`auto` becomes on a machine or for a base model is decided where that is known (`evaluate_every` of the whole config
needs two sections).
"""

from lorasmith.config.sections.adapter import AdapterConfig
from lorasmith.config.sections.augmentation import AugmentationConfig
from lorasmith.config.sections.captions import CaptionsConfig
from lorasmith.config.sections.dataset import DatasetConfig
from lorasmith.config.sections.evaluation import EvaluationConfig
from lorasmith.config.sections.model import ModelConfig
from lorasmith.config.sections.objective import LossConfig, NoiseConfig, Unused
from lorasmith.config.sections.optimizer import LR_SHAPES, LrScheduleConfig, OptimizerConfig
from lorasmith.config.sections.saving import CadenceConfig, ExportConfig
from lorasmith.config.sections.training import MachineConfig, TrainingConfig
from lorasmith.config.sections.watch import WatchConfig

__all__ = [
    "LR_SHAPES",
    "AdapterConfig",
    "AugmentationConfig",
    "CadenceConfig",
    "CaptionsConfig",
    "DatasetConfig",
    "EvaluationConfig",
    "ExportConfig",
    "LossConfig",
    "LrScheduleConfig",
    "MachineConfig",
    "ModelConfig",
    "NoiseConfig",
    "OptimizerConfig",
    "TrainingConfig",
    "Unused",
    "WatchConfig",
]
