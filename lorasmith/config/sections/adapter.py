"""Section `adapter`: what is trained."""

from pydantic import field_validator

from lorasmith.config.fields import Section, option


class AdapterConfig(Section):
    """Kind, size and start of the adapter."""

    kind: str = option("adapter", "lora", effect="identity")
    """A key of `adapters.ADAPTERS`."""
    rank: int = option("rank", 16, effect="identity", common=True, ge=1, le=1024)
    """Inner dimension of each pair of matrices."""
    alpha: float | None = option("alpha", None, effect="identity", common=True, gt=0)
    """The product of each pair is scaled by alpha / rank. None: the rank, set at --new."""
    dropout: float = option("dropout", 0.0, effect="learning", ge=0, lt=1)
    """Share of the inputs of each pair that is set to zero in training."""
    train_text_encoder: bool = option("train-text-encoder", False, effect="identity", common=True)
    """Whether the text encoder gets pairs too."""
    init_from: str = option("init-from", "", effect="learning", holds="path")
    """A LoRA file to start from; "" starts with no change to the base model."""

    @field_validator("kind")
    @classmethod
    def _in_small_letters(cls, value: str) -> str:
        return value.lower()  # LoHa, DoRA

    @property
    def resolved_alpha(self) -> float:
        """`alpha`, or the rank where it is unset."""
        return float(self.rank) if self.alpha is None else self.alpha
