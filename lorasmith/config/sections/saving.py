"""Sections `cadence` and `export`: when states are saved, and the names and data types of a run's files."""

import re
from typing import Literal

from pydantic import field_validator

from lorasmith.config.fields import Section, option, recorded
from lorasmith.config.sections.watch import MAX_SECONDS

MAX_NAME_BYTES = 180  # a file name may have 255 bytes, and backups, steps and temporary names add to this part
MAX_DESCRIPTION = 200_000  # characters; a thumbnail is one of them
MODEL_SPEC = (
    *("title", "author", "description", "license", "tags", "usage_hint", "thumbnail", "merged_from"),
    *("trigger_phrase", "preprocessor", "is_negative_embedding"),
)
"""Descriptions that a person may give: fields of https://github.com/Stability-AI/ModelSpec."""
DEVICES_OF_WINDOWS = r"con|prn|aux|nul|com[0-9]|lpt[0-9]"


class CadenceConfig(Section):
    """Intervals between states, and the number of states kept."""

    save_every: int = option("save-every", 100, effect="cadence", common=True, ge=0)
    """Steps between states, each with an export; 0 never."""
    save_minutes: float = option("save-minutes", 10.0, effect="cadence", ge=0, le=MAX_SECONDS)
    """Minutes between states without an export; 0 never."""
    save_every_n_epochs: int = option("save-every-n-epochs", 0, effect="cadence", ge=0)
    """Epochs between states, each with an export; 0 never."""
    save_n_epoch_ratio: int = option("save-n-epoch-ratio", 0, effect="cadence", ge=0)
    """In place of `save_every_n_epochs`: number of epochs with an export in the whole run, at least; 0: unset."""
    save_last_n_epochs: int = option("save-last-n-epochs", 0, effect="cadence", ge=0)
    """Number of newest exports kept, of those made at the ends of epochs; 0: all."""
    save_last_n_steps: int = option("save-last-n-steps", 0, effect="cadence", ge=0)
    """Steps after which an export made by `save_every` is removed; 0: never."""
    keep_states: int = option("keep-states", 3, effect="cadence", ge=0)
    """Number of newest states that are kept; 0: all."""

    def epochs_between_saves(self, epochs: int) -> int:
        """Epochs between states in a run of that length, in epochs; 0 never."""
        if self.save_n_epoch_ratio:
            return max(1, epochs // self.save_n_epoch_ratio)
        return self.save_every_n_epochs


class ExportConfig(Section):
    """The LoRA file for the WebUI, and the names of state folders."""

    name: str = option("name", "last", effect="cadence", common=True, holds="file_name", min_length=1, max_length=120)
    """File name without `.safetensors`."""
    save_precision: Literal["fp32", "bf16", "fp16"] = option("save-precision", "fp16", effect="cadence")
    """Data type of the exported tensors; alpha is float32 always."""
    format: Literal["", "kohya", "diffusers", "comfyui"] = option("export-format", "", effect="cadence")
    """The names of the layers in a second file at the end, "<name>-<format>"; "": no second file."""
    no_metadata: bool = option("no-metadata", False, effect="cadence")
    """Whether the file says nothing of the training and the pictures, only how it is to be used."""
    training_comment: str = option("training-comment", "", effect="cadence", max_length=10_000)
    """Text of the metadata."""
    model_spec: dict[str, str] = option("metadata", {}, effect="cadence")
    """Descriptions in the metadata by their names in ModelSpec: title, author …"""
    state_prefix: str = recorded("state", effect="cadence")
    """First part of the names of state folders: in the language of the user who started the run."""
    naming: Literal["own", "sd-scripts", "sd-scripts-unnamed"] = recorded("own", effect="cadence")
    """Program whose file names are used, by `runs.naming`; `unnamed`: without an --output_name."""

    @field_validator("model_spec", mode="after")
    @classmethod
    def _of_model_spec(cls, value: dict[str, str]) -> dict[str, str]:
        named = {name.lower().replace("-", "_"): text for name, text in value.items()}
        if not named.keys() <= set(MODEL_SPEC):
            raise ValueError(f"must be texts for {', '.join(MODEL_SPEC)}")
        if any(len(text) > MAX_DESCRIPTION for text in named.values()):
            raise ValueError(f"must have at most {MAX_DESCRIPTION} characters")
        return named

    @field_validator("name")
    @classmethod
    def _a_file_name(cls, value: str) -> str:
        if re.search(r'[\x00-\x1f<>:"/\\|?*]', value) or value.strip(" .") != value:
            raise ValueError("must be a plain file name")
        if re.fullmatch(DEVICES_OF_WINDOWS, value.partition(".")[0].rstrip(), re.IGNORECASE):
            raise ValueError("must not be the name of a device on Windows")
        if len(value.encode()) > MAX_NAME_BYTES:
            raise ValueError(f"must be at most {MAX_NAME_BYTES} bytes long")
        return value
