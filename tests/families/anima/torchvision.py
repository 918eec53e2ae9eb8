"""The function of torchvision that diffusers' Cosmos transformer needs to resize its padding mask, by torch's own.

This program does without torchvision; diffusers' pipeline, to which it is compared, does not.
"""

from types import SimpleNamespace

from torch import Tensor
from torch.nn.functional import interpolate


def _resize(mask: Tensor, size: list[int], interpolation: str) -> Tensor:
    return interpolate(mask, size=size, mode=interpolation)


TRANSFORMS = SimpleNamespace(
    InterpolationMode=SimpleNamespace(NEAREST="nearest"), functional=SimpleNamespace(resize=_resize)
)
