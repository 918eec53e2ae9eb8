"""The facts about pictures for the metadata of an export."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lorasmith.config import RunConfig, Subset
from lorasmith.config.sections import DatasetConfig
from lorasmith.data.types import Example
from lorasmith.exporting.metadata import BucketFacts, FolderFacts, count_tags
from lorasmith.exporting.picture_metadata import PictureFacts

# Readers show the most frequent few; a header of a million tags would only be slow to load.
MAX_TAGS = 1000


def picture_facts(config: RunConfig, trained: Sequence[Example]) -> PictureFacts:
    """The facts of a run; a change of pictures counts if any subset has it."""
    subsets = config.subsets()
    resampling = config.dataset.resize_interpolation
    default = DatasetConfig().resize_interpolation
    has_regularisation = any(example.is_regularisation for example in trained)
    return PictureFacts(
        has_buckets=any(subset.dataset.enable_bucket for subset in subsets),
        never_enlarges=any(subset.dataset.bucket_no_upscale for subset in subsets),
        flips=any(subset.config.augmentation.flip for subset in subsets),
        changes_color=any(subset.config.augmentation.color for subset in subsets),
        crops_at_random=any(subset.config.augmentation.random_crop for subset in subsets),
        face_crop=next((crop for subset in subsets if (crop := subset.config.augmentation.face_crop)), None),
        resampling=None if resampling in (default, "auto") else resampling,
        prior_weight=config.loss.prior_loss_weight if has_regularisation else None,
        datasets=_datasets(subsets, trained) if config.dataset.subsets else (),
    )


def folders_of(examples: Iterable[Example]) -> tuple[FolderFacts, ...]:
    """The folders with their repeats; of regularisation pictures, which are dealt out, the most that a picture has."""
    by_folder: dict[tuple[str, int, bool], list[Example]] = defaultdict(list)
    for example in examples:
        repeats = 0 if example.is_regularisation else example.repeats
        by_folder[example.image.parent.name, repeats, example.is_regularisation].append(example)
    return tuple(
        FolderFacts(name, max(example.repeats for example in members), len(members), _tags(members), is_reg)
        for (name, _, is_reg), members in by_folder.items()
    )


def buckets_of(examples: Iterable[Example]) -> tuple[BucketFacts, ...]:
    counted: Counter[tuple[int, int]] = Counter()
    for example in examples:
        counted[example.bucket.width, example.bucket.height] += example.repeats
    return tuple(BucketFacts(width, height, count) for (width, height), count in sorted(counted.items()))


def mean_aspect_error(examples: Sequence[Example]) -> float:
    pairs = [(example.original, example.bucket) for example in examples]
    errors = [abs(picture.width / picture.height - bucket.width / bucket.height) for picture, bucket in pairs]
    return sum(errors) / len(errors)


def _tags(examples: Iterable[Example]) -> dict[str, int]:
    return dict(Counter(count_tags(example.caption for example in examples)).most_common(MAX_TAGS))


# -- subsets ---------------------------------------------------------------------------------------


def _datasets(subsets: Sequence[Subset], trained: Sequence[Example]) -> list[dict[str, Any]]:
    """The groups of subsets that never meet in a batch: sd-scripts' datasets."""
    members: dict[int, list[Example]] = defaultdict(list)
    for example in trained:
        members[example.subset].append(example)
    groups: dict[int, list[Subset]] = defaultdict(list)
    for subset in subsets:
        groups[subset.group].append(subset)
    return [_dataset(group, members) for group in groups.values()]


def _dataset(group: Sequence[Subset], members: dict[int, list[Example]]) -> dict[str, Any]:
    first = group[0]
    examples = [example for subset in group for example in members[subset.number]]
    own = [example for example in examples if not example.is_regularisation]
    buckets = buckets_of(examples)
    sides = [side for bucket in buckets for side in (bucket.width, bucket.height)]
    numbered = {
        str(number): {"resolution": [bucket.width, bucket.height], "count": bucket.count}
        for number, bucket in enumerate(buckets)
    }
    info = {"buckets": numbered, "mean_img_ar_error": mean_aspect_error(examples)} if examples else None
    return {
        "is_dreambooth": True,
        "batch_size_per_device": first.batch_size,
        "num_train_images": sum(example.repeats for example in own),
        "num_reg_images": sum(example.repeats for example in examples) - sum(example.repeats for example in own),
        "resolution": _size(first.dataset),
        "enable_bucket": first.dataset.enable_bucket,
        "min_bucket_reso": min(sides, default=None),
        "max_bucket_reso": max(sides, default=None),
        "tag_frequency": {folder.name: dict(folder.tags) for folder in folders_of(examples)},
        "bucket_info": info,
        "resize_interpolation": _filter(first.dataset),
        "subsets": [_subset(subset, members[subset.number]) for subset in group],
    }


def _subset(subset: Subset, examples: Sequence[Example]) -> dict[str, Any]:
    captions, augmentation = subset.config.captions, subset.config.augmentation
    return {
        "img_count": len(examples),
        "num_repeats": subset.repeats or max((example.repeats for example in examples), default=1),
        "color_aug": augmentation.color,
        "flip_aug": augmentation.flip,
        "random_crop": augmentation.random_crop,
        "shuffle_caption": captions.shuffle,
        "keep_tokens": captions.keep_tokens,
        "keep_tokens_separator": captions.keep_tokens_separator or None,
        "secondary_separator": captions.secondary_separator or None,
        "enable_wildcard": captions.has_wildcards,
        "caption_prefix": captions.prefix or None,
        "caption_suffix": captions.suffix or None,
        "resize_interpolation": _filter(subset.dataset),
        "image_dir": Path(subset.folder).name,
        "class_tokens": subset.class_words,
        "is_reg": subset.is_regularisation,
    }


def _size(dataset: DatasetConfig) -> list[int] | None:
    given = dataset.resolution
    return None if given is None else [given, given] if isinstance(given, int) else list(given)


def _filter(dataset: DatasetConfig) -> str | None:
    return None if dataset.resize_interpolation == "auto" else dataset.resize_interpolation
