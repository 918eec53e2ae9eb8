import pytest
from pydantic import ValidationError

from lorasmith.config.sections import AugmentationConfig


@pytest.mark.parametrize("value", ["2.0,4.0", "2, 4", [2.0, 4.0], (2, 4)])
def test_a_range_of_faces(value: object) -> None:
    assert AugmentationConfig(face_crop_range=value).face_crop == (2.0, 4.0)


@pytest.mark.parametrize("value", ["1", "1,2,3", "4,2", "0,1", "a,b", "1,nan", "1,inf", "-2,1", [1]])
def test_what_is_no_range(value: object) -> None:
    with pytest.raises(ValidationError):
        AugmentationConfig(face_crop_range=value)


def test_only_mirrored_pictures_are_few() -> None:
    assert not AugmentationConfig(flip=True).is_live
    assert all(
        AugmentationConfig(**{name: value}).is_live
        for name, value in {"color": True, "random_crop": True, "face_crop_range": "1,2"}.items()
    )
    assert AugmentationConfig().face_crop is None
