"""Section `evaluation`: measurements beside the training loss."""

from pydantic import field_validator

from lorasmith.config.fields import Section, option
from lorasmith.config.sample_prompts import sample_prompt


class EvaluationConfig(Section):
    """Interval, pictures and prompts of evaluations."""

    every: int | None = option("evaluate-every", None, effect="cadence", ge=0)
    """Steps between evaluations; 0 never, not at the end either, unless by epochs. None: when states are saved."""
    every_n_epochs: int = option("sample-every-n-epochs", 0, effect="cadence", ge=0)
    """Epochs between evaluations; where it is set and `every` is not, they are by epochs alone."""
    at_first: bool = option("sample-at-first", False, effect="cadence")
    """Whether the untrained adapter is evaluated too, before the first step."""
    examples: int = option("evaluate-examples", 4, effect="cadence", ge=1, le=64)
    """Number of pictures that samples are made for, held-out pictures first."""
    strength: float = option("evaluate-strength", 0.6, effect="cadence", gt=0, le=1)
    """Share of the noise schedule that is applied to an example's latents before they are denoised; 1: noise alone."""
    sample_prompts: tuple[str, ...] = option("sample-prompt", (), effect="cadence", common=True)
    """More samples, from these captions alone, each with its flags (`config.sample_prompts`)."""
    clip_model: str = option("clip-model", "", effect="cadence", holds="path")
    """Any CLIP of transformers, a folder or a hub id, for the semantic loss. "": the demo's if that is the base."""

    @field_validator("sample_prompts")
    @classmethod
    def _with_known_flags(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for line in value:
            sample_prompt(line)
        return value
