"""Reads `--dataset_config`: tables `general`, `datasets` and `subsets`, where the inner table takes precedence.

The tables become subsets of the run (`[[dataset.subsets]]`). What none of them sets is as the command line has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lorasmith.errors import ConfigError
from lorasmith.option_names import closest
from lorasmith.sd_scripts.arguments import Argument, Kind, converted
from lorasmith.sd_scripts.command_line import Given
from lorasmith.sd_scripts.files import read_file
from lorasmith.sd_scripts.resolution import resolution
from lorasmith.sd_scripts.settings import Settings

TABLES = ("general", "datasets", "subsets")


class Key(NamedTuple):
    """A key of the file."""

    kind: Kind
    target: str = ""  # key of our subset; "" where it has no effect
    tables: tuple[str, ...] = TABLES


HELD_OUT = "validation_split"  # is no key of our subsets: pictures are held out of all of them alike
OF_DATASETS, OF_SUBSETS = ("general", "datasets"), ("subsets",)
KEYS = {
    "resolution": Key("text", "resolution", OF_DATASETS),
    "batch_size": Key("integer", "batch_size", OF_DATASETS),
    "enable_bucket": Key("flag", "enable_bucket", OF_DATASETS),
    "min_bucket_reso": Key("integer", "min_bucket_reso", OF_DATASETS),
    "max_bucket_reso": Key("integer", "max_bucket_reso", OF_DATASETS),
    "bucket_reso_steps": Key("integer", "bucket_step", OF_DATASETS),
    "bucket_no_upscale": Key("flag", "bucket_no_upscale", OF_DATASETS),
    "resize_interpolation": Key("text", "resize_interpolation"),
    "network_multiplier": Key("number", "", OF_DATASETS),
    "validation_split": Key("number", HELD_OUT, OF_DATASETS),
    "validation_seed": Key("integer", "", OF_DATASETS),
    "image_dir": Key("text", "data", OF_SUBSETS),
    "metadata_file": Key("text", "in_json", OF_SUBSETS),
    "conditioning_data_dir": Key("text", "conditioning_data_dir", OF_SUBSETS),
    "num_repeats": Key("integer", "repeats"),
    "is_reg": Key("flag", "is_reg", OF_SUBSETS),
    "class_tokens": Key("text", "class_words"),
    "caption_extension": Key("text", "caption_extension"),
    "cache_info": Key("flag"),
    "alpha_mask": Key("flag", "alpha_mask", OF_SUBSETS),
    "shuffle_caption": Key("flag", "shuffle_caption"),
    "caption_separator": Key("text", "caption_separator"),
    "keep_tokens": Key("integer", "keep_tokens"),
    "keep_tokens_separator": Key("text", "keep_tokens_separator"),
    "secondary_separator": Key("text", "secondary_separator"),
    "enable_wildcard": Key("flag", "enable_wildcard"),
    "caption_prefix": Key("text", "caption_prefix"),
    "caption_suffix": Key("text", "caption_suffix"),
    "caption_dropout_rate": Key("number", "caption_dropout_rate"),
    "caption_dropout_every_n_epochs": Key("integer", "caption_dropout_every_n_epochs"),
    "caption_tag_dropout_rate": Key("number", "caption_tag_dropout_rate"),
    "token_warmup_min": Key("integer", "token_warmup_min"),
    "token_warmup_step": Key("number", "token_warmup_step"),
    "color_aug": Key("flag", "color_aug"),
    "flip_aug": Key("flag", "flip_aug"),
    "random_crop": Key("flag", "random_crop"),
    "face_crop_aug_range": Key("text", "face_crop_aug_range"),
}
FROM_ONE = ("num_repeats", "batch_size")
IN_COMMAND_LINE = {
    "train_batch_size": "batch_size",
    "dataset_repeats": "num_repeats",
    "caption_extention": "caption_extension",
    "train_data_dir": "image_dir",
    "in_json": "metadata_file",
}
"""Argument of the command line -> the key with the same meaning."""
TOP = "[]"  # the file itself, in messages
CUSTOM = "custom_attributes"  # a table that only scripts for other models read


class _Table(NamedTuple):
    """A table with the words that name it."""

    kind: str
    name: str
    values: Mapping[str, Any]


def subsets(given: Given, settings: Settings, here: Path) -> None:
    """Sets the subsets of the run from the file.

    Raises:
        ConfigError: the file cannot be read, has a table or key that is not known, or a wrong value.
    """
    path = here / str(given.value("dataset_config"))
    replaced = [f"--{name}" for name in ("train_data_dir", "reg_data_dir", "in_json") if given.has(name)]
    if replaced:
        settings.note("sd_dataset_config_instead", arguments=replaced)
    found = [dict(subset) for subset in _subsets(path, given)]
    if not found:
        raise ConfigError("sd_no_subsets", file=str(path))
    shares = {subset.pop(HELD_OUT, settings.values["hold-out"]) for subset in found}
    if len(shares) > 1:
        raise ConfigError("sd_validation_differs", file=str(path), shares=sorted(shares))
    settings.set("hold-out", share_of_pictures(shares.pop(), str(path)), "dataset_config")
    settings.recorded["dataset", "subsets"] = found


def share_of_pictures(value: float, shown: str) -> float:
    """A share of pictures to hold out.

    Raises:
        ConfigError: `sd_no_share`.
    """
    if not 0 <= value < 1:
        raise ConfigError("sd_no_share", argument=shown, value=f"{value:g}")
    return value


def subset_of_metadata(given: Given, settings: Settings) -> None:
    """Sets the subset that `--in_json` describes: pictures in `--train_data_dir` itself."""
    if given.has("reg_data_dir"):
        settings.note("sd_dataset_config_instead", arguments=["--reg_data_dir"])
    folder, repeats = given.value("train_data_dir") or ".", given.value("dataset_repeats")
    found = {"data": folder, "in_json": given.value("in_json"), "repeats": repeats}
    settings.recorded["dataset", "subsets"] = [found]


def _subsets(path: Path, given: Given) -> Iterator[Mapping[str, Any]]:
    """The tables of subsets, each over its dataset and the general table."""
    file = read_file(path, ("toml", "json"))
    for name in file:
        if name not in ("general", "datasets"):
            raise _unknown_table(path, name)
    general = _checked(path, _Table("general", "general", _table(path, file.get("general", {}), "general")))
    shared: dict[str, Any] = {"repeats": given.value("dataset_repeats")}
    for number, dataset in enumerate(_tables(path, file.get("datasets", []), "datasets")):
        name = f"datasets[{number}]"
        inner = _tables(path, dataset.get("subsets", []), f"{name}.subsets")
        plain = {key: value for key, value in dataset.items() if key != "subsets"}
        outer = {**shared, **general, **_checked(path, _Table("datasets", name, plain)), "group": number}
        for place, subset in enumerate(inner):
            where = f"{name}.subsets[{place}]"
            values = _checked(path, _Table("subsets", where, subset))
            if "data" not in values and "in_json" in values:  # its pictures are named by whole paths
                values = {"data": ".", **values}
            if "data" not in values:
                raise ConfigError("sd_subset_without_folder", file=str(path), table=where)
            own = {**outer, **values}
            has_buckets, keeps_sizes = (
                own.get(name, given.has(name)) for name in ("enable_bucket", "bucket_no_upscale")
            )
            if has_buckets and not keeps_sizes:
                own["bucket_rule"] = "sd-scripts"
            yield own


def _checked(path: Path, table: _Table) -> dict[str, Any]:
    """The values of a table by the keys of our subsets.

    Raises:
        ConfigError: a key that is unknown or not allowed there, or a wrong value.
    """
    found = {}
    for key, value in table.values.items():
        if key == CUSTOM and isinstance(value, dict):
            continue
        if key not in KEYS:
            raise _unknown_key(path, key, table)
        known = KEYS[key]
        if table.kind not in known.tables:
            raise ConfigError(
                "sd_key_elsewhere",
                file=str(path),
                key=key,
                table=table.name,
                tables=[f"[{name}]" for name in known.tables],
            )
        taken = converted(Argument(key, ("train_network",), known.kind, "", ()), value, f"{path}: {table.name}.{key}")
        if key in FROM_ONE and taken is not None and taken < 1:
            raise ConfigError("sd_below_one", argument=f"{path}: {table.name}.{key}", value=taken)
        if key == "network_multiplier" and taken != 1:
            raise ConfigError("sd_network_multiplier", file=str(path), table=table.name)
        if known.target and taken is not None:
            found[known.target] = resolution(taken, f"{path}: {table.name}.{key}") if key == "resolution" else taken
    return found


def _unknown_table(path: Path, name: str) -> ConfigError:
    nearest = closest(name, ["general", "datasets"])
    if nearest:
        return ConfigError("sd_key_mistyped", file=str(path), key=name, table=TOP, nearest=nearest)
    return ConfigError("sd_key_unknown", file=str(path), key=name, table=TOP)


def _unknown_key(path: Path, key: str, table: _Table) -> ConfigError:
    allowed = [name for name, known in KEYS.items() if table.kind in known.tables]
    nearest = IN_COMMAND_LINE.get(key, "") or closest(key, allowed)
    if nearest:
        return ConfigError("sd_key_mistyped", file=str(path), key=key, table=table.name, nearest=nearest)
    return ConfigError("sd_key_unknown", file=str(path), key=key, table=table.name)


def _table(path: Path, value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError("sd_no_table", file=str(path), table=f"[{name}]")
    return value


def _tables(path: Path, value: Any, name: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ConfigError("sd_no_table", file=str(path), table=f"[[{name}]]")
    return value
