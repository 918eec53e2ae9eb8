"""The pictures of a run as facts for the metadata of its exports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorasmith.config import DatasetConfig, RunConfig, Subset
from lorasmith.data.captions import with_trigger
from lorasmith.data.names import parsed_folder
from lorasmith.data.types import Example
from lorasmith.exporting.metadata import count_tags
from lorasmith.exporting.picture_metadata import BucketFacts, DatasetFacts, FolderFacts, PictureFacts

# Readers show the most frequent few; a header of a million tags would only be slow to load.
MAX_TAGS = 1000


def picture_facts(
    config: RunConfig, trained: Sequence[Example], *, held_out: int, base_resolution: int
) -> PictureFacts:
    """The facts of a run."""
    subsets, own = config.subsets(), config.augmentation
    used = [subsets[number].config.augmentation for number in sorted({example.subset for example in trained})]
    return PictureFacts(
        whole=_dataset(config, subsets, trained, base_resolution),
        held_out=held_out,
        flips=own.flip,
        tints=own.color,
        crops_anywhere=own.random_crop,
        face_range=own.face_crop,
        is_live=any(changes.is_live for changes in used),
        datasets=_datasets(subsets, trained, base_resolution) if config.dataset.subsets else (),
    )


def _datasets(subsets: Sequence[Subset], trained: Sequence[Example], base_resolution: int) -> tuple[DatasetFacts, ...]:
    """A dataset for each group of subsets, as sd-scripts has them."""
    found = []
    for group in sorted({subset.group for subset in subsets}):
        members = [subset for subset in subsets if subset.group == group]
        examples = [example for example in trained if subsets[example.subset].group == group]
        if examples:
            found.append(_dataset(members[0].config, subsets, examples, base_resolution, members))
    return tuple(found)


def _dataset(
    config: RunConfig,
    subsets: Sequence[Subset],
    examples: Sequence[Example],
    base_resolution: int,
    members: Sequence[Subset] = (),
) -> DatasetFacts:
    dataset = config.dataset
    return DatasetFacts(
        folders=_folders(subsets, examples),
        buckets=_buckets(examples),
        mean_aspect_error=_mean_aspect_error(examples),
        resolution=dataset.resolved_size(base_resolution),
        batch_size=config.training.batch_size,
        has_buckets=dataset.enable_bucket,
        least=dataset.min_bucket_reso,
        most=dataset.max_bucket_reso,
        never_enlarges=dataset.bucket_no_upscale,
        resampling=_resampling(dataset),
        subsets=tuple(_subset(subset, examples) for subset in members),
    )


def _resampling(dataset: DatasetConfig) -> str | None:
    default = type(dataset)().resize_interpolation
    return None if dataset.resize_interpolation == default else dataset.resize_interpolation


def _subset(subset: Subset, examples: Sequence[Example]) -> dict[str, Any]:
    """A subset under sd-scripts' names."""
    config = subset.config
    return {
        "img_count": sum(example.subset == subset.number for example in examples),
        "num_repeats": subset.repeats or 1,
        "color_aug": config.augmentation.color,
        "flip_aug": config.augmentation.flip,
        "random_crop": config.augmentation.random_crop,
        "shuffle_caption": config.captions.shuffle,
        "keep_tokens": config.captions.keep_tokens,
        "keep_tokens_separator": config.captions.keep_tokens_separator,
        "secondary_separator": config.captions.secondary_separator or None,
        "enable_wildcard": config.captions.has_wildcards,
        "caption_prefix": config.captions.prefix or None,
        "caption_suffix": config.captions.suffix or None,
        "resize_interpolation": _resampling(config.dataset),
        "image_dir": Path(subset.folder).name,
        "class_tokens": subset.class_words,
        "is_reg": subset.is_regularisation,
    }


def _folders(subsets: Sequence[Subset], examples: Sequence[Example]) -> tuple[FolderFacts, ...]:
    """The folders, each with the repeats that its name or the settings have: those of regularisation pictures are dealt
    out by the picture."""
    by_folder: dict[tuple[int, Path, int], list[Example]] = {}
    for example in examples:
        repeats = example.repeats
        if example.is_regularisation:
            repeats = subsets[example.subset].repeats or (parsed_folder(example.image.parent.name) or (1, ""))[0]
        by_folder.setdefault((example.subset, example.image.parent, repeats), []).append(example)
    return tuple(
        FolderFacts(
            folder.name, repeats, len(members), _tags(members, subsets[number]), subsets[number].is_regularisation
        )
        for (number, folder, repeats), members in by_folder.items()
    )


def _tags(examples: Sequence[Example], subset: Subset) -> dict[str, int]:
    """Those of the texts as they were written, as sd-scripts counts them, and of the trigger word."""
    texts = (with_trigger(example.text, subset.dataset.trigger_word) for example in examples)
    return dict(Counter(count_tags(texts)).most_common(MAX_TAGS))


def _buckets(examples: Sequence[Example]) -> tuple[BucketFacts, ...]:
    counted: Counter[tuple[int, int]] = Counter()
    for example in examples:
        counted[example.bucket.width, example.bucket.height] += example.repeats
    return tuple(BucketFacts(width, height, count) for (width, height), count in sorted(counted.items()))


def _mean_aspect_error(examples: Sequence[Example]) -> float:
    pairs = [(example.original, example.bucket) for example in examples]
    errors = [abs(picture.width / picture.height - bucket.width / bucket.height) for picture, bucket in pairs]
    return sum(errors) / len(errors)
