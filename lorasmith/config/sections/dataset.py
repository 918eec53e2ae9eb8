"""Section `dataset`: the pictures, and how they are cut and held out."""

from typing import Any, Literal

from pydantic import field_validator

from lorasmith.config.fields import Section, option, recorded


class DatasetConfig(Section):
    """The pictures that are trained on, and how they are cut."""

    folder: str = option("data", "lora_train_set", effect="learning", common=True, holds="path", per_subset=True)
    """The folder of pictures, or of `N_name` folders."""
    reg_folder: str = option("reg-data-dir", "", effect="learning", holds="path")
    """A folder of regularisation pictures, or of `N_name` folders of them; "" none."""
    resolution: int | None = option("resolution", None, effect="learning", common=True, per_subset=True, ge=64, le=4096)
    """Pixels: a bucket holds at most resolution x resolution of them. None: the base model's own, set at --new."""
    bucket_step: int | None = option("bucket-step", None, effect="learning", per_subset=True, ge=8, le=256)
    """Pixels: both sides of a bucket are multiples of it. None: as the family's models are usually trained."""
    trigger_word: str = option("trigger-word", "", effect="learning", common=True, per_subset=True)
    """Text put before every caption, with a comma."""
    hold_out: int | Literal["auto"] = option("hold-out", 0, effect="learning", common=True)
    """Number of pictures that are never trained on; `auto` is 1 in 20 from 20 pictures on."""
    held_out: tuple[str, ...] = recorded((), effect="learning")
    """SHA-256 of the pictures held out, fixed at --new."""
    skip_bad_pictures: bool = option("skip-bad-pictures", False, effect="learning")
    """Whether a run starts without the pictures and captions that cannot be read."""
    subsets: tuple[dict[str, Any], ...] = recorded((), effect="learning")
    """The tables `[[dataset.subsets]]` of a settings file, as written; `RunConfig.subsets` resolves them."""

    @field_validator("hold_out")
    @classmethod
    def _not_negative(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 0:
            raise ValueError("must not be negative")
        return value

    def resolved_resolution(self, base_resolution: int) -> int:
        """`resolution`, or that of the base model where it is unset; in pixels."""
        return base_resolution if self.resolution is None else self.resolution
