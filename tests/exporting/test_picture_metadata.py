import json

from lorasmith.exporting.picture_metadata import PictureFacts, picture_metadata


def test_a_plain_run_has_the_keys_that_readers_expect() -> None:
    off = {"ss_flip_aug": "False", "ss_color_aug": "False", "ss_random_crop": "False"}
    assert picture_metadata(PictureFacts()) == {"ss_enable_bucket": "True", **off}


def test_every_setting_is_a_key() -> None:
    facts = PictureFacts(
        has_buckets=False,
        never_enlarges=True,
        flips=True,
        changes_color=True,
        crops_at_random=True,
        face_crop=(2.0, 4.0),
        resampling="area",
        prior_weight=0.5,
        datasets=[{"image_dir": "貓"}],
    )
    assert picture_metadata(facts) == {
        "ss_enable_bucket": "False",
        "ss_flip_aug": "True",
        "ss_color_aug": "True",
        "ss_random_crop": "True",
        "ss_bucket_no_upscale": "True",
        "ss_face_crop_aug_range": "(2.0, 4.0)",  # as sd-scripts writes a pair
        "ss_prior_loss_weight": "0.5",
        "ss_resize_interpolation": "area",
        "ss_datasets": json.dumps([{"image_dir": "貓"}], ensure_ascii=False),
    }
