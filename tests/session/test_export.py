"""The LoRA file of a run and its metadata."""

import json
from collections.abc import Callable

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from lorasmith.errors import ExitCode, ResumeError
from lorasmith.runs.events import RunStarted
from tests.end_to_end.workshop import Workshop

MakeWorkshop = Callable[[str], Workshop]


def metadata(workshop: Workshop, name: str = "last") -> dict[str, str]:
    with safe_open(workshop.run.export(name), framework="pt") as file:
        found: dict[str, str] = file.metadata()
    return found


def test_what_it_says(workshop: Workshop) -> None:
    values = {
        ("training", "batch_size"): 2,
        ("optimizer", "options"): {"betas": [0.8, 0.9]},
        ("export", "name"): "mine",
    }
    (started,) = workshop.new(3, values).of(RunStarted)
    found = metadata(workshop, "mine")
    assert (found["ss_steps"], found["ss_max_train_steps"], found["ss_output_name"]) == ("3", "3", "mine")
    assert (found["ss_network_dim"], found["ss_network_alpha"], found["ss_seed"]) == ("16", "16.0", "42")
    assert found["ss_num_batches_per_epoch"] == "6"
    folders = json.loads(found["ss_dataset_dirs"])
    assert {name: (one["n_repeats"], one["img_count"]) for name, one in folders.items()} == {
        "1_test": (1, 3),
        "2_test": (2, 4),
    }
    tags = json.loads(found["ss_tag_frequency"])
    assert {name: sum(counts.values()) for name, counts in tags.items()} == {"1_test": 3, "2_test": 4}
    buckets = json.loads(found["ss_bucket_info"])["buckets"]
    counted: dict[tuple[int, ...], int] = {}
    for one in started.examples:
        counted[tuple(one["bucket"])] = counted.get(tuple(one["bucket"]), 0) + one["repeats"]
    assert {tuple(one["resolution"]): one["count"] for one in buckets.values()} == counted
    assert sorted(counted.values()) == [3, 8]


def test_tags_are_counted_as_they_were_written(workshop: Workshop) -> None:
    for path in (workshop.folder / "lora_train_set").rglob("*.txt"):
        path.write_text("red, {blue|green}\nred ring", encoding="utf-8")
    values = {
        ("dataset", "trigger_word"): "sks",
        ("captions", "prefix"): "not written,",
        ("captions", "has_wildcards"): True,
        ("captions", "shuffle"): True,
        ("captions", "dropout"): 0.25,
        ("model", "max_token_length"): 150,
    }
    workshop.new(1, values)
    found = metadata(workshop)
    tags = json.loads(found["ss_tag_frequency"])
    assert tags["1_test"] == {"sks": 3, "red": 3, "{blue|green}\nred ring": 3}
    facts = ("ss_shuffle_caption", "ss_caption_dropout_rate", "ss_max_token_length")
    assert tuple(found[key] for key in facts) == ("True", "0.25", "150")


def test_it_says_the_sizes_of_layers_as_sd_scripts_does(workshop: Workshop) -> None:
    values = {
        ("adapter", "rank"): 4,
        ("adapter", "conv_rank"): 2,
        ("adapter", "targets"): "full",
        ("adapter", "block_ranks"): {"input_blocks.1": 2, "mid_block": 0},
        ("adapter", "rank_dropout"): 0.25,
        ("adapter", "module_dropout"): 0.5,
    }
    workshop.new(1, values)
    args = json.loads(metadata(workshop)["ss_network_args"])
    dims = [int(dim) for dim in args.pop("block_dims").split(",")]
    assert (len(dims), dims[1], dims[3], dims[12], dims[13]) == (25, 2, 0, 0, 4)
    assert set(args.pop("block_alphas").split(",")) == {"4.0"}
    assert args == {
        "conv_dim": "2",
        "conv_alpha": "2.0",
        "targets": "full",
        "block_rank": "input_blocks.1=2,mid_block=0",
        "rank_dropout": "0.25",
        "module_dropout": "0.5",
    }


def test_alphas_of_rslora_are_those_of_readers(workshop: Workshop) -> None:
    """Divided by the rank they give alpha / sqrt(rank), in the file and in what it says."""
    workshop.new(1, {("adapter", "rank"): 4, ("adapter", "alpha"): 3.0, ("adapter", "rslora"): True})
    found = metadata(workshop)
    assert json.loads(found["ss_network_args"]) == {"rs_lora": "True"}
    assert (found["ss_network_dim"], found["ss_network_alpha"]) == ("4", "6.0")
    file = safetensors.torch.load_file(workshop.run.export("last"))
    assert {float(tensor) for name, tensor in file.items() if name.endswith(".alpha")} == {6.0}


def test_alphas_are_those_that_were_written(workshop: Workshop) -> None:
    """Ranks by block give rsLoRA scales of their own, which a file has in its tensors: its alphas are one number."""
    rank, blocks = ("adapter", "rank"), ("adapter", "block_ranks")
    workshop.new(1, {rank: 4, ("adapter", "alpha"): 0.05, blocks: {"mid_block": 2}, ("adapter", "rslora"): True})
    found = metadata(workshop)
    assert found["ss_network_alpha"] == "0.1"
    file = safetensors.torch.load_file(workshop.run.export("last"))
    (written,) = {f"{float(tensor):.7g}" for name, tensor in file.items() if name.endswith(".alpha")}
    args = json.loads(found["ss_network_args"])
    assert set(args["block_alphas"].split(",")) == {found["ss_network_alpha"]} == {written}
    assert set(args["block_dims"].split(",")) == {"0", "2", "4"}


def test_a_lokr_of_whole_matrices_has_no_scale_to_speak_of(workshop: Workshop) -> None:
    sizes: dict[tuple[str, str], object] = {("adapter", "rank"): 1024, ("adapter", "alpha"): 4.0}
    workshop.new(1, {("adapter", "kind"): "lokr", **sizes, ("adapter", "rslora"): True})
    found = metadata(workshop)
    assert (found["ss_network_dim"], found["ss_network_alpha"]) == ("1024", "1024.0")
    assert "rs_lora" not in json.loads(found["ss_network_args"])


def test_step_exports_say_their_own_step(workshop: Workshop) -> None:
    workshop.new(3, {("cadence", "save_every"): 2})
    assert metadata(workshop, "last-step00000002")["ss_steps"] == "2"
    assert metadata(workshop)["ss_steps"] == "3"


@pytest.mark.parametrize(
    ("precision", "kind"), [("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_precision(workshop: Workshop, precision: str, kind: torch.dtype) -> None:
    workshop.new(1, {("export", "save_precision"): precision})
    stored = safetensors.torch.load_file(workshop.run.export("last"))
    assert {one.dtype for name, one in stored.items() if not name.endswith(".alpha")} == {kind}
    assert {one.dtype for name, one in stored.items() if name.endswith(".alpha")} == {torch.float32}


def test_the_prediction_that_was_asked_for_is_trained_and_named(make_workshop: MakeWorkshop) -> None:
    """And a run that goes on keeps it, whatever its files say."""
    asked, plain = make_workshop("asked"), make_workshop("plain")
    asked.new(1, {("model", "prediction"): "v_prediction"})
    plain.new(1)
    assert (metadata(asked)["ss_base_model_version"], metadata(plain)["ss_base_model_version"]) == ("sd_v1_v", "sd_v1")
    assert metadata(asked)["modelspec.prediction_type"] == "v"
    assert asked.losses()[1] != plain.losses()[1]
    assert asked.go_on(1).exit_code == ExitCode.FINISHED
    with pytest.raises(ResumeError) as caught:
        asked.go_on(1, {("model", "prediction"): "epsilon"})
    assert caught.value.fields["option"] == "prediction"
