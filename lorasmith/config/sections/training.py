"""Sections `training` and `machine`: the step, and the device it is computed on."""

from typing import Any, Literal

from pydantic import field_validator

from lorasmith.config.fields import Section, option, recorded

MAX_BATCH = 65_536


class TrainingConfig(Section):
    """Size of a step, and what happens to its gradients."""

    batch_size: int = option("batch-size", 1, effect="learning", common=True, per_subset=True, ge=1, le=MAX_BATCH)
    """Examples in a micro-batch."""
    accumulation_steps: int = option("accumulate", 1, effect="learning", ge=1, le=MAX_BATCH)
    """Micro-batches in a step."""
    max_grad_norm: float = option("max-grad-norm", 1.0, effect="learning", ge=0)
    """Gradients with a larger norm are scaled down to it; 0 never."""
    scale_weight_norms: float = option("scale-weight-norms", 0.0, effect="learning", ge=0)
    """A layer whose change has a larger norm after a step is scaled down to it; 0 never."""
    ema_decay: float = option("ema-decay", 0.0, effect="learning", ge=0, lt=1)
    """Share of the average of the weights that a step keeps; the average is exported and evaluated. 0: no average."""
    full_bf16: bool = option("full-bf16", False, effect="identity")
    """Whether the adapter, its gradients and the optimizer's state are bfloat16 too, instead of float32."""
    gradient_checkpointing: Literal["none", "elementwise", "feed-forward", "selective", "block", "offload"] = option(
        "gradient-checkpointing", "none", effect="learning", bare="block"
    )
    """Activations that are computed twice instead of kept: slower, less memory. `elementwise`: those of every block,
    but for attention, convolutions and results of layers; `selective`: but for the narrow of them. `offload`: those of
    every block, with what is kept between the blocks in the computer's memory."""

    @field_validator("gradient_checkpointing", mode="before")
    @classmethod
    def _as_a_flag(cls, value: Any) -> Any:
        """Takes true and false too, as other trainers and runs of the first version have it."""
        text = str(value).lower() if isinstance(value, bool | str) else value
        return {"true": "block", "false": "none"}.get(text, value)

    @property
    def checkpoints_blocks(self) -> bool:
        """Whether the activations of every block are computed twice."""
        return self.gradient_checkpointing in ("block", "offload")


class MachineConfig(Section):
    """The device, which is part of a run's fingerprint and not of its identity."""

    device: str = option("device", "auto", effect="learning")
    """`cuda`, `cuda:1`, `mps`, `cpu`; auto takes the first that is available, at each start anew."""
    execution: Literal["auto", "eager", "graph", "compiled"] = option("execution", "auto", effect="learning")
    """The way a step is executed: by operations, as CUDA graphs, or with compiled blocks; auto: by the device."""
    threads: int = recorded(0, effect="learning")
    """Threads of torch on the CPU, in each process; 0 until the first start has counted them."""
    project: str = recorded("..", effect="cadence")
    """Path from the run folder to the project: in run.toml, paths inside the project are relative to it."""

    @field_validator("device")
    @classmethod
    def _in_small_letters(cls, value: str) -> str:
        return value.lower()
