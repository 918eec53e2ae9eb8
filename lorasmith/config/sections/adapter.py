"""Section `adapter`: what is trained."""

import math
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field, field_validator

from lorasmith.config.fields import Section, option, recorded

BlockRank = Annotated[int, Field(strict=True, ge=0, le=1024)]


class AdapterConfig(Section):
    """Kind, size and start of the adapter."""

    kind: str = option("adapter", "lora", effect="identity")
    """A key of `adapters.ADAPTERS`."""
    lokr_factor: int = option("lokr-factor", -1, effect="identity", ge=-1)
    """LoKr: the most rows and columns of the smaller matrix. -1: both as equal as possible."""
    lokr_decompose_both: bool = option("lokr-decompose-both", False, effect="identity")
    """LoKr: whether the smaller matrix is of low rank too."""
    lokr_full_matrix: bool = option("lokr-full-matrix", False, effect="identity")
    """LoKr: whether neither matrix is of low rank, whatever the rank."""
    rank: int = option("rank", 16, effect="identity", common=True, ge=1, le=1024)
    """Inner dimension of each pair of matrices."""
    alpha: float | None = option("alpha", None, effect="identity", common=True, gt=0)
    """The product of each pair is scaled by alpha / rank. None: the rank, set at --new."""
    targets: str = option("targets", "", effect="identity")
    """The layers that get pairs: a preset of `session.layers.PRESETS`, or a regular expression that is searched for in
    their names. "": those of the attention blocks, and the convolutions where they have a rank."""
    conv_rank: int | None = option("conv-rank", None, effect="identity", ge=1, le=1024)
    """Inner dimension of the pairs of convolutions larger than 1x1. None: no convolutions, or `rank` where `targets`
    chooses some."""
    conv_alpha: float | None = option("conv-alpha", None, effect="identity", gt=0)
    """The alpha of these convolutions. None: their rank, set at --new."""
    block_ranks: dict[str, BlockRank] = option("block-rank", {}, effect="identity")
    """The rank of the layers in a block, by its name; 0 leaves them out. Convolutions keep `conv_rank`; alphas stay."""
    rslora: bool = option("rslora", False, effect="identity")
    """Whether products are scaled by alpha / sqrt(rank) instead."""
    dropout: float = option("dropout", 0.0, effect="learning", ge=0, lt=1)
    """Share of the inputs of each pair that is set to zero in training."""
    rank_dropout: float = option("rank-dropout", 0.0, effect="learning", ge=0, lt=1)
    """Share of the ranks of each pair that are left out in training, for a whole example; the others are enlarged."""
    module_dropout: float = option("module-dropout", 0.0, effect="learning", ge=0, lt=1)
    """Probability with which a layer has no change at all in a training step."""
    train_text_encoder: bool = option("train-text-encoder", False, effect="identity", common=True)
    """Whether the text encoder gets pairs too."""
    text_encoder_only: bool = option("network-train-text-encoder-only", False, effect="identity")
    """Whether the text encoder gets pairs and the denoiser none."""
    dim_from_weights: bool = option("dim-from-weights", False, effect="identity")
    """Whether the layers, and the rank and alpha of each, are those of `init_from`."""
    layer_sizes: dict[str, tuple[int, float]] = recorded({}, effect="identity", name="layer-sizes")
    """With `dim_from_weights`, the rank and alpha of each layer, set at --new."""
    init_from: str = option("init-from", "", effect="learning", holds="path")
    """A LoRA file to start from; "" starts with no change to the base model."""

    @field_validator("kind")
    @classmethod
    def _in_small_letters(cls, value: str) -> str:
        return value.lower()  # LoHa, DoRA

    def alpha_of_readers(self, alpha: float, rank: int) -> float:
        """The alpha of a pair: every reader multiplies by alpha / rank, which is rsLoRA's alpha / sqrt(rank) for an
        alpha of alpha * sqrt(rank)."""
        return alpha * math.sqrt(rank) if self.rslora else alpha

    @field_validator("block_ranks", mode="before")
    @classmethod
    def _without_tables(cls, value: Any) -> Any:
        """Accepts `down_blocks.1 = 4` without quotes, which is a table within a table in TOML."""
        return dict(flat_table(value)) if isinstance(value, dict) else value

    @field_validator("lokr_factor")
    @classmethod
    def _divides(cls, value: int) -> int:
        if value == 0:
            raise ValueError("must be -1 or at least 1")
        return value

    @property
    def kind_options(self) -> dict[str, Any]:
        """The options that the kind itself takes, as `adapter_kind` passes them on."""
        if self.kind != "lokr":
            return {}
        return {
            "factor": self.lokr_factor,
            "decompose_both": self.lokr_decompose_both,
            "full_matrix": self.lokr_full_matrix,
        }

    @property
    def unused_options(self) -> list[str]:
        """The names of options that were set and belong to another kind."""
        if self.kind == "lokr":
            return []
        fields = type(self).model_fields
        names = ("lokr_factor", "lokr_decompose_both", "lokr_full_matrix")
        return [name.replace("_", "-") for name in names if getattr(self, name) != fields[name].default]

    @property
    def trains_text_encoder(self) -> bool:
        return self.train_text_encoder or self.text_encoder_only

    @property
    def resolved_alpha(self) -> float:
        """`alpha`, or the rank where it is unset."""
        return float(self.rank) if self.alpha is None else self.alpha

    @property
    def sets_convolutions(self) -> bool:
        """Whether an option is set that only convolutions larger than 1x1 have."""
        return self.conv_rank is not None or self.conv_alpha is not None

    @property
    def resolved_targets(self) -> str:
        """`targets`, or the preset that stands for it being unset."""
        if self.targets:
            return self.targets
        return "full" if self.conv_rank is not None else "attn-mlp"

    @property
    def resolved_conv_rank(self) -> int:
        """`conv_rank`, or `rank` where it is unset."""
        return self.rank if self.conv_rank is None else self.conv_rank

    @property
    def resolved_conv_alpha(self) -> float:
        """`conv_alpha`, or the rank of convolutions where they have one, or `alpha`."""
        if self.conv_alpha is not None:
            return self.conv_alpha
        return self.resolved_alpha if self.conv_rank is None else float(self.conv_rank)


def flat_table(table: dict[str, Any], stem: str = "") -> Iterator[tuple[str, Any]]:
    """The pairs of nested tables, with the names joined by points."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flat_table(value, f"{stem}{key}.")
        else:
            yield f"{stem}{key}", value
