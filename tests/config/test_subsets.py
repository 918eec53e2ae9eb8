from pathlib import Path
from typing import Any

import pytest

from lorasmith.config import RunConfig, dump_run_toml, load_flat_toml, load_run_toml
from lorasmith.config.subsets import unused_picture_options
from lorasmith.errors import ConfigError

SUBSETS = ("dataset", "subsets")


def with_subsets(*tables: dict[str, Any], **values: Any) -> RunConfig:
    return RunConfig().with_values({SUBSETS: tables, **{("dataset", key): value for key, value in values.items()}})


def test_without_tables_the_run_is_the_only_subset() -> None:
    config = RunConfig().with_values({("dataset", "folder"): "x", ("training", "batch_size"): 3})
    (only,) = config.subsets()
    assert (only.number, only.group, only.folder, only.batch_size) == (0, 0, "x", 3)
    assert only.takes_subfolders
    assert not only.is_regularisation
    assert only.config == config


def test_a_table_overrides_the_settings_of_the_run() -> None:
    config = with_subsets(
        {"data": "a", "repeats": 2, "class_words": "cat", "trigger_word": "sks"},
        {"resolution": 256, "batch_size": 4, "is_reg": True},
        folder="x",
        resolution=128,
    )
    first, second = config.subsets()
    assert (first.folder, first.repeats, first.class_words, first.dataset.trigger_word) == ("a", 2, "cat", "sks")
    assert (first.dataset.resolution, first.batch_size, first.takes_subfolders) == (128, 1, False)
    assert (second.folder, second.dataset.resolution, second.batch_size) == ("x", 256, 4)
    assert second.is_regularisation
    assert second.takes_subfolders
    assert (first.dataset.subsets, second.dataset.subsets) == ((), ())


def test_subsets_of_other_sizes_are_groups() -> None:
    tables: list[dict[str, Any]] = [
        {"data": "a"},
        {"data": "b", "resolution": 256},
        {"data": "c", "class_words": "cat"},
        {"data": "d", "batch_size": 2},
        {"data": "e", "group": 1},
        {"data": "f", "resolution": 256},
    ]
    assert [subset.group for subset in with_subsets(*tables).subsets()] == [0, 1, 0, 2, 3, 1]


@pytest.mark.parametrize(
    ("table", "code", "fields"),
    [
        ({"date": "a"}, "subset_key", {"key": "date", "nearest": "data", "number": 2}),
        ({"qqqq": "a"}, "subset_key_unrecognised", {"key": "qqqq", "number": 2}),
        ({"lr": 1e-3}, "subset_key_of_run", {"key": "lr", "number": 2}),
        ({"repeats": 0}, "subset_value", {"option": "repeats", "value": "0", "number": 2}),
        ({"is_reg": "perhaps"}, "subset_value", {"option": "is_reg", "value": "'perhaps'", "number": 2}),
        ({"batch_size": True}, "subset_value", {"option": "batch_size", "value": "True", "number": 2}),
    ],
)
def test_what_a_table_cannot_hold(table: dict[str, Any], code: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        with_subsets({"data": "a"}, table)
    assert (caught.value.code, caught.value.fields | fields) == (code, caught.value.fields)


def test_tables_in_a_settings_file(tmp_path: Path) -> None:
    file = tmp_path / "lorasmith.toml"
    file.write_text('lr = 1e-3\n[[dataset.subsets]]\ndata = "a"\n[[dataset.subsets]]\ndata = "b"\nrepeats = 2\n')
    values = load_flat_toml(file)
    assert values == {("optimizer", "lr"): 1e-3, SUBSETS: [{"data": "a"}, {"data": "b", "repeats": 2}]}
    assert [subset.folder for subset in RunConfig().with_values(values).subsets()] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[dataset]\nsubset = 1\n", "config_unknown_key"),
        ("[dataset]\nsubsets = 1\n", "config_subsets"),
        ("dataset = 1\n", "config_unrecognised_key"),
        ('[[dataset.subsets]]\ndata = "C:\\new"\n', "config_control_sign"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_flat_toml(tmp_path / "a.toml")
    assert caught.value.code == code


def test_folders_of_subsets_go_with_the_project(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    config = with_subsets({"data": str(first / "cats")}, {"data": str(tmp_path / "dogs"), "repeats": 2})
    for place in (first, second):
        (place / "out").mkdir(parents=True)
        (place / "out" / "run.toml").write_bytes(dump_run_toml(config, first / "out"))
    assert load_run_toml(first / "out" / "run.toml") == config
    there = load_run_toml(second / "out" / "run.toml").subsets()
    assert [subset.folder for subset in there] == [str(second / "cats"), str(tmp_path / "dogs")]


def test_settings_of_pictures_without_effect_are_named() -> None:
    def unused(**values: Any) -> list[tuple[str, dict[str, Any]]]:
        return unused_picture_options(with_subsets({"data": "a"}, {"data": "b"}, **values).subsets())

    fields = {"options": ["--min-bucket-reso"], "cause": "--bucket-no-upscale"}
    assert unused(bucket_no_upscale=True, min_bucket_reso=128) == [("bucket_options_unused", fields)]
    fields = {"options": ["--min-bucket-reso", "--bucket-no-upscale"], "cause": "--enable-bucket false"}
    values = {"enable_bucket": False, "bucket_no_upscale": True, "min_bucket_reso": 128}
    assert unused(**values) == [("bucket_options_unused", fields)]
    assert unused() == []
    faces = with_subsets({"face_crop_aug_range": "1,2"}, {"face_crop_aug_range": "1,2", "enable_bucket": False})
    fields = {"options": ["--face-crop-aug-range"], "cause": "--enable-bucket"}
    assert unused_picture_options(faces.subsets()) == [("bucket_options_unused", fields)]


def test_the_masks_of_the_run_are_for_no_regularisation_picture() -> None:
    values = {("dataset", "reg_folder"): "reg", ("loss", "masked_loss"): True, ("loss", "mask_folder"): "masks"}
    pictures, regularisation = RunConfig().with_values(values).subsets()
    assert (pictures.config.loss.mask_folder, regularisation.config.loss.mask_folder) == ("masks", "")
