"""The pictures of a run that vary from use to use: which are encoded beforehand, and how the others become inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lorasmith.config import RunConfig
from lorasmith.config.sections import AugmentationConfig
from lorasmith.data.augmentation import Variant, mirrored
from lorasmith.data.types import LATENTS, LOSS_MASK, CachedExample, Example, Inputs, VaryingInputs
from lorasmith.engine.pictures import VaryingPictures


@dataclass(frozen=True, slots=True)
class PicturePlan:
    """The changes that the trained pictures may have."""

    examples: tuple[Example, ...]  # by example id
    settings: tuple[AugmentationConfig, ...]  # by example id
    beforehand: tuple[Example, ...]  # mirrored examples that are encoded before the first step

    @property
    def is_live(self) -> bool:
        """Whether pictures are encoded as they are used."""
        return any(own.is_live for own in self.settings)

    def inputs(
        self,
        seed: int,
        encoded: Mapping[Example, CachedExample],
        example_inputs: Callable[[Example], Inputs],
        live_pictures: Callable[[], Callable[[Variant], Inputs]],
    ) -> tuple[VaryingInputs, ...]:
        """The inputs of pictures that vary. `encoded` holds those of `beforehand`; `live_pictures` loads what encodes
        the others, and is called only where that is needed."""
        if not self.beforehand and not self.is_live:
            return ()
        known = {
            example: {**_of_picture(encoded[example].inputs), **example_inputs(example)} for example in self.beforehand
        }
        return (VaryingPictures(self.examples, self.settings, seed, known, live_pictures() if self.is_live else _none),)


def picture_plan(config: RunConfig, trained: Sequence[Example]) -> PicturePlan:
    """A function of settings and pictures."""
    by_subset = [subset.config.augmentation for subset in config.subsets()]
    settings = tuple(by_subset[example.subset] for example in trained)
    beforehand = [mirrored(example) for example, own in zip(trained, settings, strict=True) if own.flip]
    return PicturePlan(tuple(trained), settings, tuple(beforehand))


def _of_picture(inputs: Inputs) -> Inputs:
    """Those of an example's inputs that are made of its pixels."""
    return {name: inputs[name] for name in (LATENTS, LOSS_MASK) if name in inputs}


def _none(variant: Variant) -> Inputs:
    raise AssertionError(f"not encoded beforehand: {variant.example.image}")
