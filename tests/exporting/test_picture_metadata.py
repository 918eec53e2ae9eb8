import json
from dataclasses import replace

from lorasmith.exporting.picture_metadata import (
    BucketFacts,
    DatasetFacts,
    FolderFacts,
    PictureFacts,
    picture_metadata,
)

CATS = FolderFacts("10_cat", 10, 8, {"cat": 8})
DOGS = FolderFacts("1_dog", 1, 4, {"dog": 4}, is_regularisation=True)
WHOLE = DatasetFacts(
    folders=(CATS, DOGS),
    buckets=(BucketFacts(448, 576, 20), BucketFacts(512, 512, 60)),
    mean_aspect_error=0.25,
    resolution=(512, 768),
)


def test_a_plain_run() -> None:
    metadata = picture_metadata(PictureFacts(whole=replace(WHOLE, folders=(CATS,)), held_out=2))
    assert {key: text for key, text in metadata.items() if not text.startswith("{")} == {
        "ss_num_train_images": "80",
        "ss_num_reg_images": "0",
        "ss_num_validation_images": "2",
        "ss_cache_latents": "True",
        "ss_resolution": "(512, 768)",
        "ss_enable_bucket": "True",
        "ss_min_bucket_reso": "448",
        "ss_max_bucket_reso": "576",
        "ss_flip_aug": "False",
        "ss_color_aug": "False",
        "ss_random_crop": "False",
    }
    assert json.loads(metadata["ss_reg_dataset_dirs"]) == {}


def test_regularisation_pictures_are_apart() -> None:
    metadata = picture_metadata(PictureFacts(whole=WHOLE, held_out=0))
    assert (metadata["ss_num_train_images"], metadata["ss_num_reg_images"]) == ("80", "4")
    assert json.loads(metadata["ss_dataset_dirs"]) == {"10_cat": {"n_repeats": 10, "img_count": 8}}
    assert json.loads(metadata["ss_reg_dataset_dirs"]) == {"1_dog": {"n_repeats": 1, "img_count": 4}}
    assert json.loads(metadata["ss_tag_frequency"]) == {"10_cat": {"cat": 8}, "1_dog": {"dog": 4}}


def test_what_was_asked_for() -> None:
    whole = replace(WHOLE, least=256, most=1024, never_enlarges=True, resampling="area")
    facts = PictureFacts(
        whole=whole, held_out=0, flips=True, tints=True, crops_anywhere=True, face_range=(1.0, 2.0), is_live=True
    )
    metadata = picture_metadata(facts)
    assert (metadata["ss_min_bucket_reso"], metadata["ss_max_bucket_reso"]) == ("256", "1024")
    assert {metadata[f"ss_{name}"] for name in ("flip_aug", "color_aug", "random_crop")} == {"True"}
    assert metadata["ss_bucket_no_upscale"] == "True"
    assert metadata["ss_resize_interpolation"] == "area"
    assert metadata["ss_face_crop_aug_range"] == "(1.0, 2.0)"
    assert metadata["ss_cache_latents"] == "False"
    without = picture_metadata(PictureFacts(whole=replace(whole, has_buckets=False), held_out=0))
    assert (without["ss_enable_bucket"], without["ss_min_bucket_reso"]) == ("False", "None")


def test_tables_of_subsets_take_the_place_of_the_settings_of_the_run() -> None:
    subset = {"img_count": 8, "num_repeats": 10, "is_reg": False}
    dataset = replace(WHOLE, folders=(CATS, CATS), batch_size=4, subsets=(subset,))
    metadata = picture_metadata(PictureFacts(whole=dataset, held_out=0, datasets=(dataset,)))
    assert "ss_resolution" not in metadata and "ss_flip_aug" not in metadata
    (found,) = json.loads(metadata["ss_datasets"])
    assert (found["resolution"], found["batch_size_per_device"], found["subsets"]) == ([512, 768], 4, [subset])
    assert found["bucket_info"]["buckets"]["1"] == {"resolution": [512, 512], "count": 60}
    assert list(json.loads(metadata["ss_dataset_dirs"])) == ["10_cat", "10_cat (2)"]
