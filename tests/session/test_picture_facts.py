"""The metadata of exports about pictures, of runs with subsets and regularisation pictures."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from lorasmith.errors import ExitCode
from tests.data.drawing import put_picture
from tests.end_to_end.workshop import Values, Workshop

# The keys that sd-scripts gives a dataset and a subset in `ss_datasets`, for a --dataset_config of folders.
OF_DATASET = {
    *("is_dreambooth", "batch_size_per_device", "num_train_images", "num_reg_images", "resolution", "enable_bucket"),
    *("min_bucket_reso", "max_bucket_reso", "tag_frequency", "bucket_info", "resize_interpolation", "subsets"),
}
OF_SUBSET = {
    *("img_count", "num_repeats", "color_aug", "flip_aug", "random_crop", "shuffle_caption", "keep_tokens"),
    *("keep_tokens_separator", "secondary_separator", "enable_wildcard", "caption_prefix", "caption_suffix"),
    *("resize_interpolation", "image_dir", "class_tokens", "is_reg"),
}


def metadata_of(workshop: Workshop, values: Values) -> dict[str, Any]:
    """The metadata of the file of a run, JSON in it read."""
    assert workshop.new(1, values).exit_code == ExitCode.FINISHED
    with safe_open(workshop.run.export("last"), "pt") as file:
        found = file.metadata()
    return {key: json.loads(text) if text[:1] in "{[" else text for key, text in found.items()}


def put_pictures(folder: Path, count: int) -> None:
    for number in range(count):
        put_picture(folder / f"{number}.png", 64, 64, 20 + 30 * number)


def test_regularisation_pictures_are_counted_apart(workshop: Workshop) -> None:
    """Five are dealt out to eleven uses of the others: the first thrice, the others twice."""
    put_pictures(workshop.folder / "reg" / "1_ring", 5)
    found = metadata_of(workshop, {("dataset", "reg_folder"): "reg", ("loss", "prior_loss_weight"): 0.5})
    assert found["ss_reg_dataset_dirs"] == {"1_ring": {"n_repeats": 3, "img_count": 5}}
    assert (found["ss_num_train_images"], found["ss_num_reg_images"]) == ("11", "11")
    assert found["ss_prior_loss_weight"] == "0.5"
    assert "1_ring" not in found["ss_dataset_dirs"] and "ss_datasets" not in found


def test_subsets_are_the_datasets_of_sd_scripts(workshop: Workshop) -> None:
    put_pictures(workshop.folder / "cat", 2)
    put_pictures(workshop.folder / "dog", 3)
    subsets = (
        {"data": "cat", "repeats": 3, "flip_aug": True, "class_words": "cat", "resolution": 64},
        {
            "data": "dog",
            "resolution": 128,
            "repeats": 1,
            "batch_size": 2,
            "shuffle_caption": True,
            "class_words": "dog",
        },
    )
    found = metadata_of(workshop, {("dataset", "subsets"): subsets})
    first, second = found["ss_datasets"]
    assert set(first) == OF_DATASET and set(first["subsets"][0]) == OF_SUBSET
    assert [dataset["num_train_images"] for dataset in (first, second)] == [6, 3]
    assert [dataset["batch_size_per_device"] for dataset in (first, second)] == [1, 2]
    assert [dataset["resolution"] for dataset in (first, second)] == [[64, 64], [128, 128]]
    assert [dataset["subsets"][0]["image_dir"] for dataset in (first, second)] == ["cat", "dog"]
    assert first["subsets"][0]["num_repeats"] == 3 and first["tag_frequency"] == {"cat": {"cat": 2}}
    assert (first["subsets"][0]["flip_aug"], second["subsets"][0]["flip_aug"]) == (True, False)
    assert found["ss_flip_aug"] == "True" and found["ss_num_train_images"] == "9"
