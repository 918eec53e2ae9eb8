"""The metadata about pictures: how they are cut and changed, and what is for regularisation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFacts:
    """The cuts and changes of pictures, under any subset."""

    has_buckets: bool = True
    never_enlarges: bool = False
    flips: bool = False
    changes_color: bool = False
    crops_at_random: bool = False
    face_crop: tuple[float, float] | None = None
    resampling: str | None = None  # the filter by its name; None: as sd-scripts chooses it
    prior_weight: float | None = None  # of regularisation pictures; None: there are none
    datasets: Sequence[Mapping[str, Any]] = ()  # as `ss_datasets` has them; (): the run has no subsets


def picture_metadata(facts: PictureFacts) -> dict[str, str]:
    """The `ss_*` keys. Keys that readers do not need are written only where their setting counts."""
    metadata = {
        "ss_enable_bucket": str(facts.has_buckets),
        "ss_flip_aug": str(facts.flips),
        "ss_color_aug": str(facts.changes_color),
        "ss_random_crop": str(facts.crops_at_random),
    }
    if facts.never_enlarges:
        metadata["ss_bucket_no_upscale"] = "True"
    if facts.face_crop is not None:
        metadata["ss_face_crop_aug_range"] = str(facts.face_crop)
    if facts.prior_weight is not None:
        metadata["ss_prior_loss_weight"] = str(facts.prior_weight)
    if facts.resampling is not None:
        metadata["ss_resize_interpolation"] = facts.resampling
    if facts.datasets:
        metadata["ss_datasets"] = json.dumps(list(facts.datasets), ensure_ascii=False)
    return metadata
