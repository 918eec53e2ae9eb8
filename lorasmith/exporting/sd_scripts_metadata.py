"""Metadata for files under sd-scripts' names, which have all of its keys, and descriptions that a person gives.

Plain runs write the keys that readers look for and no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lorasmith import __version__

# Keys of sd-scripts whose value says that an option is not used.
_UNUSED = {
    "ss_bucket_no_upscale": "False",
    "ss_face_crop_aug_range": "None",
    "ss_fp8_base_unet": "False",
    "ss_huber_c": "0.1",
    "ss_huber_scale": "1.0",
    "ss_huber_schedule": "snr",
    "ss_ip_noise_gamma_random_strength": "False",
    "ss_max_validation_steps": "None",
    "ss_multires_noise_discount": "0.3",
    "ss_noise_offset_random_strength": "False",
    "ss_prior_loss_weight": "1.0",
    "ss_resize_interpolation": "None",
}
_EMPTY_UNLESS_GIVEN = {"ss_network_args": "{}"}
_MINIMUM = frozenset(
    {"ss_v2", "ss_base_model_version", "ss_network_module", "ss_network_dim", "ss_network_alpha", "ss_network_args"}
)
"""The `ss_*` keys that remain with --no-metadata."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DescriptionFacts:
    """The amount of metadata that a file gets, and what its author says of it."""

    comment: str = ""
    model_spec: Mapping[str, str] = field(default_factory=dict)  # author, license … without `modelspec.`
    is_minimal: bool = False  # says nothing of the pictures and the training
    has_all_keys: bool = False  # all that sd-scripts writes
    base_model_short_hash: str = ""  # as `short_hash` computes it; "" of a folder
    validation: tuple[int | None, int | None] = (None, None)  # steps and epochs between measurements


def described(metadata: Mapping[str, str], facts: DescriptionFacts, *, seed: int, pictures: int) -> dict[str, str]:
    """The metadata with descriptions, as complete as wanted.

    Args:
        pictures: with those that are held out.
    """
    result = {**metadata, **{f"modelspec.{name}": text for name, text in facts.model_spec.items()}}
    if facts.comment:
        result["ss_training_comment"] = facts.comment
    if facts.has_all_keys:
        result = {**_UNUSED, **_only_theirs(result, facts, seed=seed, pictures=pictures)}
    if facts.is_minimal:
        result = {key: text for key, text in result.items() if not key.startswith("ss_") or key in _MINIMUM}
    return result


def _only_theirs(metadata: Mapping[str, str], facts: DescriptionFacts, *, seed: int, pictures: int) -> dict[str, str]:
    held_out = int(metadata["ss_num_validation_images"])
    steps, epochs = (str(every or None) for every in facts.validation) if held_out else ("None", "None")
    short = {"ss_sd_model_hash": facts.base_model_short_hash} if facts.base_model_short_hash else {}
    return {
        **{key: text for key, text in metadata.items() if _EMPTY_UNLESS_GIVEN.get(key) != text},
        **short,
        **({"ss_resize_interpolation": "None"} if metadata.get("ss_resize_interpolation") == "auto" else {}),
        "ss_validation_split": str(round(held_out / pictures, 6) if held_out else 0.0),
        "ss_validation_seed": str(seed) if held_out else "None",
        "ss_validate_every_n_steps": steps,
        "ss_validate_every_n_epochs": epochs,
        "modelspec.implementation_version": f"lorasmith/{__version__}",
    }
