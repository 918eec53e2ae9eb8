"""Section `dataset`: the pictures, and how they are cut and held out."""

from math import isqrt
from typing import Any, Literal, Self

from pydantic import field_validator, model_validator

from lorasmith.config.fields import Section, option, recorded
from lorasmith.errors import ConfigError

MIN_RESOLUTION, MAX_RESOLUTION, MAX_SIDE = 64, 4096, 8192
Interpolation = Literal["lanczos", "auto", "area", "bilinear", "bicubic", "nearest"]

SAME_FILTERS = {"box": "area", "linear": "bilinear", "cubic": "bicubic", "lanczos4": "lanczos"}
"""Other names of filters, which sd-scripts takes."""


class DatasetConfig(Section):
    """The pictures that are trained on, and how they are cut."""

    folder: str = option("data", "lora_train_set", effect="learning", common=True, holds="path", per_subset=True)
    """The folder of pictures, or of `N_name` folders."""
    reg_folder: str = option("reg-data-dir", "", effect="learning", holds="path")
    """A folder of regularisation pictures, or of `N_name` folders of them; "" none."""
    metadata_file: str = option("in-json", "", effect="learning", holds="path", per_subset=True)
    """A metadata file of sd-scripts that names the pictures in the folder and holds their captions; "" none."""
    resolution: int | tuple[int, int] | None = option(
        "resolution", None, effect="learning", common=True, per_subset=True
    )
    """Pixels: a bucket holds at most resolution x resolution of them, or width x height. None: the base model's own,
    set at --new."""
    enable_bucket: bool = option("enable-bucket", True, effect="learning", per_subset=True)
    """Whether pictures are cut to the bucket nearest to their shape; else all are cut to the resolution."""
    bucket_step: int | None = option("bucket-step", None, effect="learning", per_subset=True, ge=8, le=256)
    """Pixels: both sides of a bucket are multiples of it. None: as the family's models are usually trained."""
    bucket_rule: Literal["least-cut", "sd-scripts"] = option(
        "bucket-rule", "least-cut", effect="learning", per_subset=True
    )
    """By what the bucket of a picture is chosen: that which keeps most of it, or that of sd-scripts."""
    min_bucket_reso: int | None = option("min-bucket-reso", None, effect="learning", per_subset=True, ge=8, le=MAX_SIDE)
    """Pixels: the smallest side of a bucket. None: about half the resolution; 256 by the rule of sd-scripts."""
    max_bucket_reso: int | None = option("max-bucket-reso", None, effect="learning", per_subset=True, ge=8, le=MAX_SIDE)
    """Pixels: the largest side of a bucket. None: about twice the resolution; 1024 by the rule of sd-scripts."""
    bucket_no_upscale: bool = option("bucket-no-upscale", False, effect="learning", per_subset=True)
    """Whether pictures are never enlarged: a smaller picture gets a bucket of its own size."""
    resize_interpolation: Interpolation = option("resize-interpolation", "lanczos", effect="learning", per_subset=True)
    """By what filter pictures are resampled; `auto` is `area` where a picture is reduced, `lanczos` where it grows."""
    trigger_word: str = option("trigger-word", "", effect="learning", common=True, per_subset=True)
    """Text put before every caption, with a comma."""
    hold_out: int | float | Literal["auto"] = option("hold-out", 0, effect="learning", common=True)
    """Number of pictures that are never trained on, or their share below 1; `auto` is 1 in 20 from 20 pictures on."""
    held_out: tuple[str, ...] = recorded((), effect="learning")
    """SHA-256 of the pictures held out, fixed at --new."""
    skip_bad_pictures: bool = option("skip-bad-pictures", False, effect="learning")
    """Whether a run starts without the pictures and captions that cannot be read."""
    subsets: tuple[dict[str, Any], ...] = recorded((), effect="learning")
    """The tables `[[dataset.subsets]]` of a settings file, as written; `RunConfig.subsets` resolves them."""

    @field_validator("hold_out")
    @classmethod
    def _a_number_or_a_share(cls, value: float | str) -> float | str:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, str) and (value < 0 or (isinstance(value, float) and value > 1)):
            raise ValueError("must be a whole number, or a share below 1")
        return value

    @field_validator("resize_interpolation", mode="before")
    @classmethod
    def _by_any_name(cls, value: Any) -> Any:
        return SAME_FILTERS.get(value, value) if isinstance(value, str) else value

    @field_validator("resolution", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """The two numbers of `512,768`."""
        return value.split(",") if isinstance(value, str) and "," in value else value

    @field_validator("resolution")
    @classmethod
    def _of_a_picture(cls, value: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
        sides: tuple[int, ...] = value if isinstance(value, tuple) else () if value is None else (value,)
        if not all(MIN_RESOLUTION <= side <= MAX_RESOLUTION for side in sides):
            raise ValueError(f"must be from {MIN_RESOLUTION} to {MAX_RESOLUTION}")
        return sides[0] if len(set(sides)) == 1 else value

    @model_validator(mode="after")
    def _limits_are_in_order(self) -> Self:
        least, most = self.min_bucket_reso, self.max_bucket_reso
        if least is not None and most is not None and least > most:
            raise ConfigError("bucket_limits", least=least, most=most)
        return self

    def resolved_size(self, base_resolution: int) -> tuple[int, int]:
        """Width and height of `resolution`, or of that of the base model where it is unset; in pixels."""
        asked = base_resolution if self.resolution is None else self.resolution
        return asked if isinstance(asked, tuple) else (asked, asked)

    def resolved_resolution(self, base_resolution: int) -> int:
        """The side of a square of as many pixels as `resolved_size`."""
        width, height = self.resolved_size(base_resolution)
        return isqrt(width * height)
