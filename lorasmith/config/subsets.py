"""The subsets of a dataset: folders of pictures with settings of their own, from the tables `[[dataset.subsets]]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lorasmith.config.fields import Option, Section
from lorasmith.errors import ConfigError
from lorasmith.option_names import closest, plain_name

if TYPE_CHECKING:
    from lorasmith.config.run import RunConfig
    from lorasmith.config.sections import DatasetConfig

MAX_REPEATS = 10_000
SEPARATING = (
    *("batch_size", "resolution", "enable_bucket", "bucket_rule", "bucket_step"),
    *("min_bucket_reso", "max_bucket_reso", "bucket_no_upscale"),
)
"""Keys whose values keep subsets apart: those that differ in one of them never meet in a batch."""

NO_MASKS = {"conditioning_data_dir": ""}
"""The masks of the run are for the pictures of `--data`, also where a regularisation picture has the name of one."""


class SubsetFacts(Section):
    """The keys of a subset that are no options of the run."""

    repeats: int | None = Field(None, ge=1, le=MAX_REPEATS)
    """Uses of each picture in an epoch. Set: only pictures in the folder itself count, not those in sub-folders. None:
    the names of folders tell."""
    class_words: str | None = None
    """The caption of a picture without a caption file; has the same effect on sub-folders as `repeats`."""
    is_reg: bool = False
    """Whether these are regularisation pictures: they preserve what the base model knows of the class."""
    group: int = Field(0, ge=0)
    """Subsets with different numbers never meet in a batch."""


@dataclass(frozen=True, slots=True)
class Subset:
    """A folder of pictures with its settings."""

    number: int  # from 0: `Example.subset`
    group: int  # from 0, without gaps: a batch holds examples of a single group
    repeats: int | None  # None: the names of folders tell
    class_words: str | None
    is_regularisation: bool
    config: RunConfig  # with the values of this subset

    @property
    def dataset(self) -> DatasetConfig:
        return self.config.dataset

    @property
    def folder(self) -> str:
        return self.config.dataset.folder

    @property
    def batch_size(self) -> int:
        return self.config.training.batch_size

    @property
    def takes_subfolders(self) -> bool:
        """Whether pictures in sub-folders named `N_name` belong to it."""
        return self.repeats is None and self.class_words is None


def subset_options(known: Mapping[str, Option]) -> dict[str, Option]:
    """The options that a subset may set, by key."""
    return {key: item for key, item in known.items() if item.facts.per_subset}


def resolved_subsets(config: RunConfig, known: Mapping[str, Option]) -> tuple[Subset, ...]:
    """The subsets of a config, at least one: without tables, the folder of the run.

    Raises:
        ConfigError: `reg_data_with_subsets`; `subset_key`, `subset_key_unrecognised`, `subset_key_of_run`,
            `subset_value`.
    """
    dataset = config.dataset
    if dataset.subsets and dataset.reg_folder:
        raise ConfigError("reg_data_with_subsets", folder=dataset.reg_folder)
    of_run: list[dict[str, Any]] = [{}, {"data": dataset.reg_folder, "is_reg": True, **NO_MASKS}]
    tables: Sequence[Mapping[str, Any]] = dataset.subsets or of_run[: 2 if dataset.reg_folder else 1]
    whole = config.with_values({("dataset", "subsets"): ()}) if dataset.subsets else config
    own = [_own(table, number, known, whole) for number, table in enumerate(tables, start=1)]
    groups: dict[tuple[Any, ...], int] = {}
    found = []
    for number, (facts, resolved) in enumerate(own):
        values = [_value(resolved, known[key]) for key in SEPARATING]
        group = groups.setdefault((facts.group, *values), len(groups))
        found.append(Subset(number, group, facts.repeats, facts.class_words, facts.is_reg, resolved))
    return tuple(found)


def _own(
    table: Mapping[str, Any], number: int, known: Mapping[str, Option], whole: RunConfig
) -> tuple[SubsetFacts, RunConfig]:
    from lorasmith.config.run import validated  # run.py imports this file

    options = subset_options(known)
    for key in table:
        if key not in options and key not in SubsetFacts.model_fields:
            raise _unknown_key(key, number, known)
    try:
        facts = validated(SubsetFacts, {key: value for key, value in table.items() if key not in options})
        values = {(options[key].section, options[key].field_name): table[key] for key in table if key in options}
        return facts, whole.with_values(values) if values else whole
    except ConfigError as error:
        fields = {**error.fields, "option": plain_name(str(error.fields.get("option", "")))}
        raise ConfigError("subset_value", number=number, **fields) if error.code == "config_value" else error from None


def _unknown_key(key: str, number: int, known: Mapping[str, Option]) -> ConfigError:
    names = [*SubsetFacts.model_fields, *subset_options(known)]
    if key in known:
        return ConfigError("subset_key_of_run", key=key, number=number)
    nearest = closest(key, names)
    if nearest:
        return ConfigError("subset_key", key=key, number=number, nearest=nearest)
    return ConfigError("subset_key_unrecognised", key=key, number=number, known=names)


def _value(config: RunConfig, option: Option) -> Any:
    return getattr(getattr(config, option.section), option.field_name)


def unused_picture_options(subsets: Sequence[Subset]) -> list[tuple[str, dict[str, Any]]]:
    """Notices of settings of pictures without effect, and of what takes it from them."""
    noted: list[tuple[str, dict[str, Any]]] = []
    for subset in subsets:
        dataset = subset.dataset
        if dataset.enable_bucket and subset.config.augmentation.face_crop_range:
            noted.append(("bucket_options_unused", {"options": ["--face-crop-aug-range"], "cause": "--enable-bucket"}))
        if dataset.enable_bucket and not dataset.bucket_no_upscale:
            continue
        asked = {
            "--min-bucket-reso": dataset.min_bucket_reso is not None,
            "--max-bucket-reso": dataset.max_bucket_reso is not None,
            "--bucket-rule": dataset.bucket_rule != "least-cut",
            "--bucket-no-upscale": dataset.bucket_no_upscale and not dataset.enable_bucket,
        }
        unused = [name for name, is_asked in asked.items() if is_asked]
        cause = "--bucket-no-upscale" if dataset.enable_bucket else "--enable-bucket false"
        notice = ("bucket_options_unused", {"options": unused, "cause": cause})
        if unused:
            noted.append(notice)
    return [notice for number, notice in enumerate(noted) if notice not in noted[:number]]
