from __future__ import annotations

from pathlib import Path

import pytest

from tests.sd_scripts.translating import refusal, settings

LINE = "--dit model.safetensors --dataset_config data.toml"


def test_each_dataset_is_a_subset_with_what_is_general(tmp_path: Path) -> None:
    (tmp_path / "data.toml").write_text(
        """[general]
resolution = [768, 768]
caption_extension = ".txt"
enable_bucket = true
[[datasets]]
image_directory = "a"
cache_directory = "cache/a"
num_repeats = 3
[[datasets]]
image_directory = "b"
resolution = [1024, 512]
bucket_no_upscale = true
"""
    )
    found = settings(LINE, tmp_path, "zimage_train_network")["dataset.subsets"]
    shared = {"caption_extension": ".txt", "enable_bucket": True}
    assert found == [
        {**shared, "data": "a", "resolution": 768, "repeats": 3},
        {**shared, "data": "b", "resolution": [1024, 512], "bucket_no_upscale": True},
    ]


def test_where_nothing_is_set_its_defaults_count(tmp_path: Path) -> None:
    (tmp_path / "data.toml").write_text('[[datasets]]\nimage_directory = "a"\n')
    found = settings(LINE, tmp_path, "krea2_train_network")["dataset.subsets"]
    assert found == [{"data": "a", "resolution": [960, 544], "enable_bucket": False}]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[general]\n", "sd_no_subsets"),
        ('[[datasets]]\nvideo_directory = "a"\n', "sd_dataset_without_pictures"),
        ('[[datasets]]\nimage_jsonl_file = "a"\n', "sd_dataset_without_pictures"),
        ('[[datasets]]\nimage_directory = "a"\ncontrol_directory = "b"\n', "sd_dataset_key"),
        ('[[datasets]]\nimage_directory = "a"\nnum_repeats = "x"\n', "sd_not_integer"),
        ('[[datasets]]\nimage_directory = "a"\nresolution = [1, 2, 3]\n', "sd_resolution"),
    ],
)
def test_what_cannot_be_trained_with_is_refused(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "data.toml").write_text(text)
    assert refusal(LINE, tmp_path, "flux_2_train_network").code == code
