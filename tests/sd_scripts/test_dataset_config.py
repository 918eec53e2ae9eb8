from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lorasmith.config import RunConfig
from tests.sd_scripts.translating import refusal, translation

LINE = "--dataset_config data.toml"
WHOLE = """
[general]
shuffle_caption = true
keep_tokens = 1
caption_extension = ".txt"
batch_size = 2

[[datasets]]
resolution = 512
keep_tokens = 2
  [[datasets.subsets]]
  image_dir = "cats"
  num_repeats = 10
  class_tokens = "sks cat"
  [[datasets.subsets]]
  is_reg = true
  image_dir = "reg"
  keep_tokens = 3
  shuffle_caption = false

[[datasets]]
resolution = [768, 768]
batch_size = 1
  [[datasets.subsets]]
  image_dir = "large"
"""


def subsets(text: str, here: Path, line: str = LINE) -> list[dict[str, Any]]:
    (here / "data.toml").write_text(text)
    values = translation(line, here).values
    RunConfig().with_values({at: value for at, value in values.items() if at[0] != "request"})
    found: list[dict[str, Any]] = values["dataset", "subsets"]
    return found


def test_the_inner_table_takes_precedence(tmp_path: Path) -> None:
    first, second, third = subsets(WHOLE, tmp_path)
    shared = {"shuffle_caption": True, "caption_extension": ".txt", "batch_size": 2, "resolution": 512, "group": 0}
    assert first == {**shared, "keep_tokens": 2, "data": "cats", "repeats": 10, "class_words": "sks cat"}
    own = {"keep_tokens": 3, "shuffle_caption": False, "data": "reg", "is_reg": True, "repeats": 1}
    assert second == {**shared, **own}
    of_third = {"keep_tokens": 1, "resolution": 768, "batch_size": 1, "group": 1, "data": "large", "repeats": 1}
    assert third == {**shared, **of_third}


def test_json_says_the_same(tmp_path: Path) -> None:
    import tomllib

    (tmp_path / "data.json").write_text(json.dumps(tomllib.loads(WHOLE)))
    assert translation("--dataset_config data.json", tmp_path).values["dataset", "subsets"] == subsets(WHOLE, tmp_path)


def test_what_no_table_sets_is_as_the_command_line_has_it(tmp_path: Path) -> None:
    text = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "x"\nshuffle_caption = false\n'
    line = f"{LINE} --shuffle_caption --dataset_repeats 5 --train_batch_size 3 --resolution 256"
    assert subsets(text, tmp_path, line) == [{"data": "x", "repeats": 5, "group": 0, "shuffle_caption": False}]
    values = translation(line, tmp_path).values
    config = RunConfig().with_values({at: value for at, value in values.items() if at[0] != "request"})
    (subset,) = config.subsets()
    assert (subset.config.captions.shuffle, subset.batch_size, subset.dataset.resolution) == (False, 3, 256)


def test_the_folders_of_the_command_line_are_not_used(tmp_path: Path) -> None:
    (tmp_path / "data.toml").write_text(WHOLE)
    found = translation(f"{LINE} --train_data_dir d --reg_data_dir r", tmp_path)
    assert dict(found.notes)["sd_dataset_config_instead"] == {"arguments": ["--train_data_dir", "--reg_data_dir"]}
    assert not {("dataset", "folder"), ("dataset", "reg_folder")} & set(found.values)


SUBSET = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "x"\n'


@pytest.mark.parametrize(
    ("text", "code", "field"),
    [
        ("", "sd_no_subsets", None),
        ("[[datasets]]\nresolution = 512\n", "sd_no_subsets", None),
        ("[[datasets]]\n[[datasets.subsets]]\nnum_repeats = 1\n", "sd_subset_without_folder", None),
        ("[[dataset]]\n", "sd_key_mistyped", "datasets"),
        ("[zzz]\n", "sd_key_unknown", None),
        ("general = 1\n", "sd_no_table", None),
        ("[datasets]\n", "sd_no_table", None),
        (f"{SUBSET}num_repeat = 3\n", "sd_key_mistyped", "num_repeats"),
        (f"{SUBSET}dataset_repeats = 3\n", "sd_key_mistyped", "num_repeats"),
        (f"[general]\ntrain_batch_size = 3\n{SUBSET}", "sd_key_mistyped", "batch_size"),
        (f"{SUBSET}zzz = 3\n", "sd_key_unknown", None),
        (f"{SUBSET}resolution = 512\n", "sd_key_elsewhere", None),
        (f"[general]\nis_reg = true\n{SUBSET}", "sd_key_elsewhere", None),
        (f"{SUBSET}num_repeats = 'x'\n", "sd_not_integer", None),
        (f"{SUBSET}num_repeats = true\n", "sd_not_integer", None),
        (f"{SUBSET}num_repeats = 0\n", "sd_below_one", None),
        (f"[general]\nbatch_size = -1\n{SUBSET}", "sd_below_one", None),
        (f"{SUBSET}shuffle_caption = 2\n", "sd_not_flag", None),
        (f"[general]\nnetwork_multiplier = 0.5\n{SUBSET}", "sd_network_multiplier", None),
        (f"[general]\nresolution = [1, 2, 3]\n{SUBSET}", "sd_resolution", None),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, code: str, field: str | None) -> None:
    (tmp_path / "data.toml").write_text(text)
    error = refusal(LINE, tmp_path)
    assert (error.code, error.fields.get("nearest")) == (code, field)


def test_buckets_are_chosen_as_there_where_there_are_any(tmp_path: Path) -> None:
    text = f"[general]\nenable_bucket = true\n{SUBSET}[[datasets]]\nenable_bucket = false\n{SUBSET[13:]}"
    with_buckets, without = subsets(text, tmp_path)
    assert (with_buckets["bucket_rule"], without.get("bucket_rule")) == ("sd-scripts", None)
    (of_own_sizes,) = subsets(f"[general]\nenable_bucket = true\nbucket_no_upscale = true\n{SUBSET}", tmp_path)
    assert "bucket_rule" not in of_own_sizes


def test_a_share_is_held_out_of_all_datasets_alike(tmp_path: Path) -> None:
    two = f"{SUBSET}[[datasets]]\n{{}}{SUBSET[13:]}"
    (tmp_path / "data.toml").write_text("[general]\nvalidation_split = 0.2\n" + two.format(""))
    assert translation(LINE, tmp_path).values["dataset", "hold_out"] == 0.2
    (tmp_path / "data.toml").write_text(two.format("validation_split = 0.2\n"))
    assert refusal(LINE, tmp_path).code == "sd_validation_differs"
    assert refusal("--validation_split 1").code == "sd_no_share"


def test_metadata_files_describe_pictures_in_the_folder_itself(tmp_path: Path) -> None:
    text = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "x"\nmetadata_file = "m.json"\n'
    expected = {"data": "x", "in_json": "m.json", "repeats": 1}
    assert subsets(text, tmp_path) == [{**expected, "group": 0}]
    values = translation("--train_data_dir x --in_json m.json").values
    assert values["dataset", "subsets"] == [expected]
    assert ("dataset", "folder") not in values


def test_what_other_scripts_read_is_left_aside(tmp_path: Path) -> None:
    text = f"{SUBSET}cache_info = true\ncustom_attributes = {{ a = 1 }}\n"
    assert subsets(text, tmp_path) == [{"data": "x", "repeats": 1, "group": 0}]
