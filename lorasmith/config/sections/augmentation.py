"""Section `augmentation`: changes of pictures from use to use."""

from typing import Any

from pydantic import field_validator

from lorasmith.config.fields import Section, option


class AugmentationConfig(Section):
    """The changes that a picture may have at each use."""

    flip: bool = option("flip-aug", False, effect="learning", per_subset=True)
    """Whether a picture is mirrored, left to right, at half of its uses."""
    color: bool = option("color-aug", False, effect="learning", per_subset=True)
    """Whether a third of the uses have another hue or brightness."""
    random_crop: bool = option("random-crop", False, effect="learning", per_subset=True)
    """Whether a picture is cut at a place of its own at each use, not from the middle."""
    face_crop_range: str = option("face-crop-aug-range", "", effect="learning", per_subset=True)
    """`LEAST,MOST`: a picture whose name ends with `_x_y_width_height` of a face is cut around it, and the shorter side
    is from LEAST to MOST times the face. "": not."""

    @field_validator("face_crop_range", mode="before")
    @classmethod
    def _joined(cls, value: Any) -> Any:
        """The text for a list of two numbers, as TOML may have it."""
        return ",".join(map(str, value)) if isinstance(value, list | tuple) else value

    @field_validator("face_crop_range")
    @classmethod
    def _of_two_numbers(cls, value: str) -> str:
        if value:
            least, most = _numbers(value)
            if not 0 < least <= most < 1e6:
                raise ValueError("must be two numbers over 0, the smaller first")
        return value

    @property
    def face_crop(self) -> tuple[float, float] | None:
        """The shorter side of a cut, as a multiple of the face: least and most; None: faces do not count."""
        return _numbers(self.face_crop_range) if self.face_crop_range else None

    @property
    def is_live(self) -> bool:
        """Whether the pictures that may be made of a picture are too many to be encoded beforehand."""
        return self.color or self.random_crop or self.face_crop is not None


def _numbers(text: str) -> tuple[float, float]:
    parts = text.split(",")
    if len(parts) != 2:
        raise ValueError("must be two numbers with a comma between")
    return float(parts[0]), float(parts[1])
