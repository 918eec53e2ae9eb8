import json
from pathlib import Path
from typing import Any

import pytest

from lorasmith.config import RunConfig
from lorasmith.data.folder import Scan
from lorasmith.data.types import Example
from lorasmith.errors import ConfigError, DatasetError, ModelError
from lorasmith.families.weights import BaseWeights
from lorasmith.inputs import (
    base_weights,
    data_identity,
    notices,
    order_of,
    scan_for,
    split_examples,
    steps_of_epochs,
)
from tests.data.drawing import put_picture
from tests.families.unet_miniature import make_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "miniature")


@pytest.fixture(scope="module")
def weights(model: Path) -> BaseWeights:
    return base_weights(RunConfig().with_values({("model", "base_model"): model.name}), model.parent)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """7 pictures in two shapes; 5 of one folder count twice."""
    for number in range(5):
        put_picture(tmp_path / "set" / "2_cat" / f"{number}.png", 96, 80, number)
    for number in range(2):
        put_picture(tmp_path / "set" / f"loose{number}.png", 80, 160, 10 + number)
    return tmp_path / "set"


def config_for(folder: Path, **values: Any) -> RunConfig:
    given: dict[tuple[str, str], Any] = {("dataset", "folder"): str(folder), ("dataset", "resolution"): 64}
    for key, value in values.items():
        section, _, field = key.partition("__")
        given[section, field] = value
    return RunConfig().with_values(given)


# -- the base model --------------------------------------------------------------------------------


def test_a_base_model_is_found_beside_where_one_stands(model: Path, weights: BaseWeights) -> None:
    assert (weights.path, weights.family) == (model.absolute(), "sd15")


def test_an_unnamed_base_model_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        base_weights(RunConfig(), tmp_path)
    assert caught.value.code == "base_model_unnamed"


def test_a_base_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        base_weights(RunConfig().with_values({("model", "base_model"): "./none.safetensors"}), tmp_path)
    assert caught.value.code == "base_model_not_found"


# -- the pictures ----------------------------------------------------------------------------------


def scanned(config: RunConfig, weights: BaseWeights) -> Scan:
    return scan_for(config, weights, check_pixels=True)


def test_buckets_are_multiples_of_the_step(pictures: Path, weights: BaseWeights) -> None:
    """Of what the UNet accepts, 32 here, unless another number is asked for."""
    assert {example.bucket for example in scanned(config_for(pictures), weights).examples} == {(64, 64), (32, 96)}
    wide = config_for(pictures, dataset__bucket_step=64)
    assert {example.bucket for example in scanned(wide, weights).examples} == {(64, 64)}


@pytest.mark.parametrize(("step", "resolution"), [(48, 512), (16, 512), (128, 64)])
def test_a_step_that_the_model_cannot_take_is_refused(
    pictures: Path, weights: BaseWeights, step: int, resolution: int
) -> None:
    config = config_for(pictures, dataset__bucket_step=step, dataset__resolution=resolution)
    with pytest.raises(ConfigError) as caught:
        scanned(config, weights)
    assert (caught.value.code, caught.value.fields["multiple"]) == ("bucket_step", 32)


def test_pictures_are_cut_as_the_config_and_the_weights_say(pictures: Path, weights: BaseWeights) -> None:
    config = config_for(pictures, dataset__trigger_word="zorg")
    found = scanned(config, weights)
    assert len(found.examples) == 7 and sorted(one.repeats for one in found.examples) == [1, 1, 2, 2, 2, 2, 2]
    assert all(one.caption.startswith("zorg") for one in found.examples)
    for one in found.examples:
        assert one.bucket.width * one.bucket.height <= 64 * 64
        assert one.bucket.width % weights.size_multiple == one.bucket.height % weights.size_multiple == 0
    larger = scanned(config_for(pictures, dataset__resolution=128), weights)
    assert {one.bucket for one in larger.examples} != {one.bucket for one in found.examples}


def test_bad_pictures_stop_or_are_left_out(pictures: Path, weights: BaseWeights) -> None:
    (pictures / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError):
        scanned(config_for(pictures), weights)
    found = scanned(config_for(pictures, dataset__skip_bad_pictures=True), weights)
    assert len(found.examples) == 7 and len(found.problems) == 1


def test_held_out_pictures_are_told_by_their_bytes(pictures: Path, weights: BaseWeights) -> None:
    (pictures / "2_cat" / "copy.png").write_bytes((pictures / "2_cat" / "0.png").read_bytes())
    found = scanned(config_for(pictures), weights)
    sha = next(one.image_sha256 for one in found.examples if one.image.name == "0.png")
    config = config_for(pictures, dataset__held_out=(sha, "of a picture that is gone"))
    trained, held_out = split_examples(config, found)
    assert {one.image.name for one in held_out} == {"0.png", "copy.png"}
    assert len(trained) == 6 and not set(trained) & set(held_out)
    assert split_examples(config_for(pictures), found) == (found.examples, ())


def test_where_none_is_held_out_though_it_was_asked(pictures: Path, weights: BaseWeights) -> None:
    found = scanned(config_for(pictures), weights)
    codes = {}
    for hold_out, held_out in (("auto", ()), (0, ()), ("auto", ("sha",))):
        config = config_for(pictures, dataset__hold_out=hold_out, dataset__held_out=held_out)
        codes[hold_out, held_out] = dict(notices(config, found, 1)).get("hold_out_none")
    assert codes == {("auto", ()): {"hold_out": "auto", "pictures": 7}, (0, ()): None, ("auto", ("sha",)): None}


def test_where_all_are_held_out_nothing_can_be_learned(pictures: Path, weights: BaseWeights) -> None:
    found = scanned(config_for(pictures), weights)
    everything = tuple(one.image_sha256 for one in found.examples)
    with pytest.raises(ConfigError) as caught:
        split_examples(config_for(pictures, dataset__held_out=everything), found)
    assert (caught.value.code, caught.value.fields) == ("hold_out_too_many", {"hold_out": 7, "pictures": 7})


# -- counting --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "epochs", "steps"),
    # 10 examples of one bucket and 2 of another: 12, 5 + 1 or 4 + 1 micro-batches in a pass.
    [
        (1, 1, 1, 12),
        (1, 1, 3, 36),
        (1, 5, 1, 3),
        (2, 1, 1, 6),
        (2, 4, 1, 2),
        (2, 4, 2, 3),
        (3, 1, 2, 10),
        (50, 1, 1, 2),
    ],
)
def test_epochs_become_steps(
    pictures: Path, weights: BaseWeights, batch_size: int, accumulate: int, epochs: int, steps: int
) -> None:
    config = config_for(pictures, training__batch_size=batch_size, training__accumulation_steps=accumulate)
    assert steps_of_epochs(config, scanned(config, weights), epochs) == steps


def test_epochs_count_what_is_trained_on(pictures: Path, weights: BaseWeights) -> None:
    found = scanned(config_for(pictures), weights)
    twice = next(one.image_sha256 for one in found.examples if one.repeats == 2)
    assert steps_of_epochs(config_for(pictures, dataset__held_out=(twice,)), found, 1) == 10


def test_the_order_is_that_of_the_seed(pictures: Path, weights: BaseWeights) -> None:
    found = scanned(config_for(pictures), weights)

    def first_epoch(seed: int) -> list[tuple[int, ...]]:
        order = order_of(config_for(pictures).with_values({("", "seed"): seed}), found.examples)
        return [order.batch_at(position, 0)[1] for position in range(order.batches_per_epoch)]

    assert first_epoch(1) == first_epoch(1) != first_epoch(2)
    assert sorted(number for batch in first_epoch(1) for number in batch) == sorted(
        number for number, one in enumerate(found.examples) for _ in range(one.repeats)
    )


# -- what positions are counted over ---------------------------------------------------------------


def test_data_identity_changes_with_what_positions_are_counted_over(pictures: Path, weights: BaseWeights) -> None:
    def identity(examples: tuple[Example, ...] | None = None, **values: Any) -> str:
        config = config_for(pictures, **values)
        return data_identity(config, scanned(config, weights).examples if examples is None else examples)

    before = identity()
    assert before == identity() and len(before) == 64
    assert before == identity(optimizer__lr=1.0, cadence__save_every=1, training__max_grad_norm=0.0, adapter__rank=2)
    examples = scanned(config_for(pictures), weights).examples
    other = {
        "batch": identity(training__batch_size=2),
        "accumulation": identity(training__accumulation_steps=2),
        "resolution": identity(dataset__resolution=128),
        "words": identity(dataset__trigger_word="x"),
        "one less": identity(examples[1:]),
        "another order": identity(examples[::-1]),
    }
    (pictures / "2_cat").rename(pictures / "3_cat")
    other["repeats"] = identity()
    put_picture(pictures / "loose0.png", 80, 160, 99)
    other["a picture"] = identity()
    assert len({before, *other.values()}) == 9, json.dumps(other)


def test_data_identity_does_not_depend_on_where_the_pictures_lie(pictures: Path, weights: BaseWeights) -> None:
    before = data_identity(config_for(pictures), scanned(config_for(pictures), weights).examples)
    moved = pictures.rename(pictures.with_name("another place"))
    assert data_identity(config_for(moved), scanned(config_for(moved), weights).examples) == before


# -- subsets ---------------------------------------------------------------------------------------


def with_subsets(pictures: Path, *tables: dict[str, Any]) -> RunConfig:
    return config_for(pictures).with_values({("dataset", "subsets"): tables, ("training", "batch_size"): 2})


def test_a_batch_holds_examples_of_a_single_group(weights: BaseWeights, pictures: Path) -> None:
    config = with_subsets(
        pictures, {"repeats": 3}, {"data": str(pictures / "2_cat"), "repeats": 1}, {"resolution": 128, "batch_size": 3}
    )
    found = scan_for(config, weights, check_pixels=True)
    counted = [(one.subset, one.repeats) for one in found.examples]
    assert counted == [(0, 3)] * 2 + [(1, 1)] * 5 + [(2, 2)] * 5 + [(2, 1)] * 2
    order = order_of(config, found.examples)
    batches = [order.batch_at(place, 0)[1] for place in range(order.batches_per_epoch)]
    for batch in batches:
        of_group = {found.examples[number].subset == 2 for number in batch}
        assert len(of_group) == 1
        assert len(batch) <= (3 if of_group == {True} else 2)
    assert {3} == {len(batch) for batch in batches if found.examples[batch[0]].subset == 2 and len(batch) > 2}


def test_problems_of_all_subsets_are_listed(weights: BaseWeights, pictures: Path, tmp_path: Path) -> None:
    (pictures / "bad.png").write_bytes(b"no picture")
    put_picture(tmp_path / "other" / "a.png", 96, 80, 50)
    (tmp_path / "other" / "worse.png").write_bytes(b"")
    config = with_subsets(pictures, {"resolution": 64}, {"data": str(tmp_path / "other")}, {"resolution": 128})
    with pytest.raises(DatasetError) as caught:
        scan_for(config, weights, check_pixels=True)
    assert sorted(Path(one["path"]).name for one in caught.value.fields["problems"]) == ["bad.png", "worse.png"]


def test_the_identity_of_a_dataset_knows_its_groups(weights: BaseWeights, pictures: Path) -> None:
    other = str(pictures / "2_cat")
    together = with_subsets(pictures, {"data": other, "repeats": 2, "class_words": "cat"}, {"repeats": 1})
    apart = with_subsets(pictures, {"data": other, "repeats": 2, "class_words": "cat"}, {"repeats": 1, "group": 1})
    plain = config_for(pictures).with_values({("training", "batch_size"): 2})
    identities = {
        data_identity(config, scan_for(config, weights, check_pixels=False).examples)
        for config in (together, apart, plain)
    }
    assert len(identities) == 2  # the first and the last have the same pictures and batches


# -- regularisation --------------------------------------------------------------------------------


def test_regularisation_pictures_are_as_many_as_the_others(
    weights: BaseWeights, pictures: Path, tmp_path: Path
) -> None:
    for number in range(5):
        put_picture(tmp_path / "reg" / "1_cat" / f"{number}.png", 96, 80, 20 + number)
    config = config_for(pictures).with_values({("dataset", "reg_folder"): str(tmp_path / "reg")})
    found = scan_for(config, weights, check_pixels=True)
    trained, held_out = split_examples(config, found)
    of_class = [(one.repeats, one.caption) for one in trained if one.is_regularisation]
    assert of_class == [(3, "cat")] * 2 + [(2, "cat")] * 3  # 2 x 5 + 2 pictures
    apart = config.with_values({("dataset", "held_out"): (trained[0].image_sha256,)})
    left, held_out = split_examples(apart, found)
    assert [one.repeats for one in left if one.is_regularisation] == [2] * 5  # 10 are left to train on
    assert [one.image_sha256 for one in held_out] == [trained[0].image_sha256]
    equal = next(one for one in found.examples if one.is_regularisation).image_sha256
    for without in (config, config.with_values({("dataset", "held_out"): (equal,)})):
        assert [one for one in notices(without, found, 10) if one[0] == "reg_unused"] == []


def test_regularisation_pictures_that_are_left_over_are_named(
    weights: BaseWeights, pictures: Path, tmp_path: Path
) -> None:
    for number in range(15):
        put_picture(tmp_path / "reg" / f"{number:02}.png", 96, 80, 20 + number)
    config = config_for(pictures).with_values({("dataset", "reg_folder"): str(tmp_path / "reg")})
    found = scan_for(config, weights, check_pixels=True)
    assert sum(one.is_regularisation for one in split_examples(config, found)[0]) == 12
    unused = {"count": 3, "files": ["12.png", "13.png", "14.png"]}
    assert [fields for code, fields in notices(config, found, 10) if code == "reg_unused"] == [unused]


def test_a_set_of_regularisation_pictures_alone_is_none(weights: BaseWeights, pictures: Path) -> None:
    config = with_subsets(pictures, {"is_reg": True})
    with pytest.raises(ConfigError) as caught:
        split_examples(config, scan_for(config, weights, check_pixels=True))
    assert caught.value.code == "reg_alone"


# -- buckets ---------------------------------------------------------------------------------------


def test_settings_of_buckets_reach_the_cut(weights: BaseWeights, pictures: Path) -> None:
    def buckets_of(**values: Any) -> set[tuple[int, int]]:
        config = config_for(pictures, **{f"dataset__{name}": value for name, value in values.items()})
        return {example.bucket for example in scan_for(config, weights, check_pixels=False).examples}

    assert buckets_of(enable_bucket=False) == {(64, 64)}
    assert buckets_of(enable_bucket=False, resolution=(64, 128)) == {(64, 128)}
    assert buckets_of(resolution="160, 96", bucket_no_upscale=True) == {(96, 64), (64, 160)}
    assert buckets_of(resolution=128, min_bucket_reso=128, max_bucket_reso=128) == {(128, 128)}
    assert buckets_of(bucket_rule="sd-scripts", resolution=64, min_bucket_reso=32, max_bucket_reso=128) == {
        (64, 64),
        (32, 96),
    }


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"min_bucket_reso": 128}, "bucket_limit"),
        ({"max_bucket_reso": 32}, "bucket_limit"),
        ({"min_bucket_reso": 128, "max_bucket_reso": 64}, "bucket_limits"),
    ],
)
def test_limits_that_the_resolution_is_beyond(
    weights: BaseWeights, pictures: Path, values: dict[str, int], code: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        scan_for(
            config_for(pictures, **{f"dataset__{name}": value for name, value in values.items()}),
            weights,
            check_pixels=False,
        )
    assert caught.value.code == code
