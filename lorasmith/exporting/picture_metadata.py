"""The metadata about pictures, under the keys and in the spelling of sd-scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """A folder of pictures."""

    name: str
    repeats: int
    pictures: int
    tags: Mapping[str, int]  # how many captions hold each: `count_tags`
    is_regularisation: bool = False


@dataclass(frozen=True, slots=True)
class BucketFacts:
    """A size that pictures are trained in, in pixels."""

    width: int
    height: int
    count: int  # pictures, with repeats


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFacts:
    """Pictures that are cut by the same settings."""

    folders: tuple[FolderFacts, ...]
    buckets: tuple[BucketFacts, ...]
    mean_aspect_error: float  # mean over the pictures of |aspect ratio of the picture - of its bucket|
    resolution: tuple[int, int]  # pixels
    batch_size: int = 1
    has_buckets: bool = True
    least: int | None = None  # the limits of buckets that were asked for
    most: int | None = None
    never_enlarges: bool = False
    resampling: str | None = None  # None: our own
    subsets: tuple[Mapping[str, Any], ...] = ()  # as JSON values under sd-scripts' names


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFacts:
    """The pictures of a run."""

    whole: DatasetFacts  # all of them, by the settings of the run
    held_out: int
    flips: bool = False
    tints: bool = False
    crops_anywhere: bool = False
    face_range: tuple[float, float] | None = None
    is_live: bool = False  # pictures are encoded as they are used
    datasets: tuple[DatasetFacts, ...] = ()  # where the settings have tables of subsets

    @property
    def resolution(self) -> tuple[int, int]:
        return self.whole.resolution


def picture_metadata(facts: PictureFacts) -> dict[str, str]:
    """The `ss_*` keys. With tables of subsets `ss_datasets` takes the place of the settings of the run."""
    whole = facts.whole
    metadata = {
        "ss_num_train_images": str(_count(whole, is_regularisation=False)),
        "ss_num_reg_images": str(_count(whole, is_regularisation=True)),
        "ss_num_validation_images": str(facts.held_out),
        "ss_cache_latents": str(not facts.is_live),
        "ss_dataset_dirs": _json(_directories(whole, is_regularisation=False)),
        "ss_tag_frequency": _json(_tag_frequency(whole)),
    }
    metadata |= {"ss_face_crop_aug_range": str(facts.face_range)} if facts.face_range else {}
    metadata |= {"ss_resize_interpolation": whole.resampling} if whole.resampling else {}
    if facts.datasets:
        return metadata | {"ss_datasets": _json([_dataset(dataset) for dataset in facts.datasets])}
    least, most = _limits(whole)
    return metadata | {
        "ss_resolution": str(whole.resolution),
        "ss_reg_dataset_dirs": _json(_directories(whole, is_regularisation=True)),
        "ss_enable_bucket": str(whole.has_buckets),
        **({"ss_bucket_no_upscale": "True"} if whole.never_enlarges else {}),
        "ss_min_bucket_reso": str(least),
        "ss_max_bucket_reso": str(most),
        "ss_bucket_info": _json(_bucket_info(whole)),
        "ss_flip_aug": str(facts.flips),
        "ss_color_aug": str(facts.tints),
        "ss_random_crop": str(facts.crops_anywhere),
    }


def _dataset(facts: DatasetFacts) -> dict[str, Any]:
    least, most = _limits(facts)
    return {
        "is_dreambooth": True,
        "batch_size_per_device": facts.batch_size,
        "num_train_images": _count(facts, is_regularisation=False),
        "num_reg_images": _count(facts, is_regularisation=True),
        "resolution": list(facts.resolution),
        "enable_bucket": facts.has_buckets,
        "min_bucket_reso": least,
        "max_bucket_reso": most,
        "tag_frequency": _tag_frequency(facts),
        "bucket_info": _bucket_info(facts),
        "resize_interpolation": facts.resampling,
        "subsets": list(facts.subsets),
    }


def _count(facts: DatasetFacts, *, is_regularisation: bool) -> int:
    """Pictures, with repeats."""
    return sum(own.repeats * own.pictures for own in facts.folders if own.is_regularisation == is_regularisation)


def _limits(facts: DatasetFacts) -> tuple[int | None, int | None]:
    """The smallest and the largest side of a bucket: those asked for, else those in use; none without buckets."""
    if not facts.has_buckets:
        return None, None
    sides = [side for bucket in facts.buckets for side in (bucket.width, bucket.height)]
    return facts.least or min(sides, default=None), facts.most or max(sides, default=None)


def _bucket_info(facts: DatasetFacts) -> dict[str, Any]:
    buckets = {
        str(number): {"resolution": [bucket.width, bucket.height], "count": bucket.count}
        for number, bucket in enumerate(facts.buckets)
    }
    return {"buckets": buckets, "mean_img_ar_error": facts.mean_aspect_error}


def _directories(facts: DatasetFacts, *, is_regularisation: bool) -> dict[str, dict[str, int]]:
    """Folders by name; of several with a name, all but the first get a number, as in sd-scripts."""
    kept = [own for own in facts.folders if own.is_regularisation == is_regularisation]
    return {
        name: {"n_repeats": own.repeats, "img_count": own.pictures}
        for name, own in zip(_distinct(own.name for own in kept), kept, strict=True)
    }


def _distinct(names: Iterable[str]) -> list[str]:
    taken: list[str] = []
    for name in names:
        number, free = 2, name
        while free in taken:
            number, free = number + 1, f"{name} ({number})"
        taken.append(free)
    return taken


def _tag_frequency(facts: DatasetFacts) -> dict[str, dict[str, int]]:
    return {own.name: dict(own.tags) for own in facts.folders}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
