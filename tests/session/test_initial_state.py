"""Starting from a LoRA that is there."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
import safetensors.torch
import torch

from lorasmith.config import AdapterConfig
from lorasmith.errors import ExitCode, ModelError
from lorasmith.runs.events import RunStopped, WorkerRestarted
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.promotion import promote
from lorasmith.session import begin as begin_module
from lorasmith.session.initial_state import read_init_from
from tests.end_to_end.workshop import Values, Workshop
from tests.lora_files.written import ALPHA, RANK, WRITERS, changes, unet_with_lora
from tests.lora_tools.made import tensors_of, write

MakeWorkshop = Callable[[str], Workshop]
EXACT: Values = {("export", "save_precision"): "fp32", ("optimizer", "lr"): 1e-2}


@pytest.mark.parametrize("alpha", [pytest.param(16.0, marks=pytest.mark.ci), 4.0])
def test_starting_from_a_lora(make_workshop: MakeWorkshop, alpha: float) -> None:
    """At step 0 the change is that of the file, whatever the alpha of the new run."""
    first, second = make_workshop("first"), make_workshop("second")
    first.new(2, EXACT)
    file = first.run.export("last")
    values = {**EXACT, ("adapter", "init_from"): str(file), ("adapter", "alpha"): alpha}
    assert second.new(2, {**values, ("optimizer", "lr"): 0.0}).exit_code == ExitCode.FINISHED
    was, now = first.adapter(), second.adapter()
    assert was.keys() == now.keys()
    assert max(float(one.abs().max()) for name, one in was.items() if ".lora_up." in name) > 0
    for name in was:
        expected = was[name] * (16.0 / alpha) if ".lora_up." in name else was[name]
        assert torch.equal(now[name], expected)


def test_starting_from_a_lora_of_a_part(workshop: Workshop) -> None:
    """Layers that the file does not have keep their untouched start: a change of nothing."""
    workshop.new(2, EXACT)
    stored = safetensors.torch.load_file(workshop.run.export("last"))
    some = sorted({name.split(".")[0] for name in stored})[:5]
    part = workshop.folder / "part.safetensors"
    safetensors.torch.save_file({name: one for name, one in stored.items() if name.split(".")[0] in some}, part)
    workshop.output = "second"
    values = {**EXACT, ("adapter", "init_from"): "part.safetensors", ("optimizer", "lr"): 0.0}
    assert workshop.new(1, values).exit_code == ExitCode.FINISHED
    ups = [bool(one.any()) for name, one in workshop.adapter().items() if ".lora_up." in name]
    assert ups.count(True) == 5
    assert len(ups) > 5


@pytest.mark.ci
def test_starting_from_the_lora_of_the_run_that_makes_room(
    make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that dies when the old run lies in the backup, and nothing is saved yet: the next one finds the file."""
    unlucky, straight = make_workshop("unlucky"), make_workshop("straight")
    times = []

    def dies_once(run: RunFolder, *, now: datetime) -> None:
        promote(run, now=now)
        times.append(now)
        if len(times) == 1:
            raise ZeroDivisionError

    for workshop in (unlucky, straight):
        workshop.new(2, EXACT)
        if workshop is unlucky:
            monkeypatch.setattr(begin_module, "promote", dies_once)
        outcome = workshop.new(2, {**EXACT, ("adapter", "init_from"): str(workshop.run.export("last"))})
        monkeypatch.setattr(begin_module, "promote", promote)
        assert outcome.exit_code == ExitCode.FINISHED
        assert len(outcome.of(WorkerRestarted)) == (workshop is unlucky)
    assert len(times) == 2
    assert unlucky.digest() == straight.digest()


@pytest.mark.parametrize("naming", WRITERS)
def test_starting_from_the_lora_of_another_program(nano: Path, workshop: Workshop, tmp_path: Path, naming: str) -> None:
    """Its change, layer by layer; the ranks that it does not have begin as in a new LoRA."""
    unet = unet_with_lora(nano)
    workshop.base_model = nano
    file = WRITERS[naming](unet, tmp_path)
    values = {**EXACT, ("adapter", "init_from"): str(file), ("adapter", "rank"): 4, ("optimizer", "lr"): 0.0}
    assert workshop.new(1, values).exit_code == ExitCode.FINISHED
    now, expected = workshop.adapter(), changes(unet)
    assert set(expected) < {name.removeprefix("denoiser.").partition(".lora_")[0] for name in now}
    for name, up in now.items():
        if not name.endswith(".lora_up.weight"):
            continue
        path, down = name.removeprefix("denoiser.").partition(".lora_")[0], now[name.replace("lora_up", "lora_down")]
        change = up.flatten(1) @ down.flatten(1)  # alpha is the rank
        assert torch.allclose(change, expected.get(path, torch.zeros(())), atol=1e-6)
        assert not up[:, RANK:].any() and bool((down[RANK:].abs().sum(1) > 0).all())


def test_a_rank_that_is_too_large_names_the_rank_that_fits(nano: Path, workshop: Workshop, tmp_path: Path) -> None:
    workshop.base_model = nano
    file = WRITERS["kohya"](unet_with_lora(nano), tmp_path)
    outcome = workshop.new(1, {("adapter", "init_from"): str(file), ("adapter", "rank"): 2})
    ending = outcome.of(RunStopped)[-1]
    assert (ending.code, ending.fields["found"], ending.fields["rank"]) == ("init_from_rank", RANK, 2)
    start = workshop.start_new(1, {("adapter", "init_from"): str(file)})
    assert (start.config.adapter.rank, start.config.adapter.alpha) == (RANK, ALPHA)


def test_convolutions_have_a_rank_of_their_own(nano: Path, workshop: Workshop) -> None:
    """A file with convolutions asks a run without them to train them, and names the option of their rank."""
    workshop.base_model = nano
    workshop.new(1, {**EXACT, ("adapter", "rank"): 2, ("adapter", "conv_rank"): 3})
    start: Values = {("adapter", "init_from"): str(workshop.run.export("last")), ("adapter", "rank"): 4}
    wanted: dict[str, Values] = {"none": {}, "smaller": {("adapter", "conv_rank"): 2}}
    endings = {}
    for name, convolutions in wanted.items():
        workshop.output = name
        endings[name] = workshop.new(1, {**EXACT, **start, **convolutions}).of(RunStopped)[-1]
    assert endings["none"].code == "init_from_not_trained" and endings["none"].fields["count"] > 3
    assert endings["smaller"].code == "init_from_rank"
    assert (endings["smaller"].fields["option"], endings["smaller"].fields["found"]) == ("conv-rank", 3)
    workshop.output = "larger"
    assert workshop.new(1, {**EXACT, **start, ("adapter", "conv_rank"): 4}).exit_code == ExitCode.FINISHED


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_{}.weight", "init_from_other_family"),
        ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_{}", "init_from_other_kind"),
    ],
)
def test_a_lora_of_another_family_or_kind_is_named(workshop: Workshop, key: str, code: str) -> None:
    ends = ("down", "up") if "lora_" in key.partition(".")[2] else ("a", "b")
    tensors = {key.format(end): torch.zeros(2, 2) for end in ends}
    if code == "init_from_other_family":  # comes first: no other option would help
        tensors |= {
            f"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_{end}.weight": torch.zeros(2, 2) for end in ends
        }
    if code == "init_from_other_kind":
        tensors |= {name.replace("w1", "w2"): tensor.clone() for name, tensor in tensors.items()}
    safetensors.torch.save_file(tensors, workshop.folder / "other.safetensors")
    with pytest.raises(ModelError) as caught:
        workshop.start_new(1, {("adapter", "init_from"): "other.safetensors"})
    assert caught.value.code == code
    assert caught.value.fields["found"] in ("FLUX.1", ["loha"])


def test_a_lora_of_another_family_and_kind_is_refused_for_both(workshop: Workshop) -> None:
    ends = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    tensors = {f"lora_unet_double_blocks_0_img_attn_qkv.{end}": torch.zeros(2, 2) for end in ends}
    safetensors.torch.save_file(tensors, workshop.folder / "other.safetensors")
    with pytest.raises(ModelError) as caught:
        workshop.start_new(1, {("adapter", "init_from"): "other.safetensors"})
    assert caught.value.code == "init_from_other_family_and_kind"
    assert (caught.value.fields["found"], caught.value.fields["kinds"]) == ("FLUX.1", ["loha"])


def test_a_layer_that_the_family_lacks_is_refused_with_the_name_that_people_know(tmp_path: Path) -> None:
    pair = {"lora_down.weight": torch.ones(2, 320), "lora_up.weight": torch.ones(320, 2)}
    foreign = {f"lora_unet_nowhere.{name}": tensor for name, tensor in pair.items()}
    path = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    twice = {f"unet.{path}.lora_A.weight": torch.ones(2, 320), f"unet.{path}.lora_B.weight": torch.ones(320, 2)}
    for number, more in enumerate((foreign, twice)):
        file = write(tmp_path / f"{number}.safetensors", {**tensors_of(), **more})
        with pytest.raises(ModelError, match="init_from_foreign") as caught:
            read_init_from(AdapterConfig(init_from=str(file)), "sd15")
        assert caught.value.fields["family"] == "SD 1.x"


def test_continuing_does_not_start_from_it_again(workshop: Workshop) -> None:
    """The file may even be gone."""
    workshop.new(1, EXACT)
    start = workshop.run.export("last").rename(workshop.folder / "start.safetensors")
    workshop.output = "second"
    workshop.new(1, {**EXACT, ("adapter", "init_from"): "start.safetensors"})
    start.unlink()
    assert workshop.go_on(1).exit_code == ExitCode.FINISHED


def test_starting_from_a_lora_takes_its_rank_and_alpha(make_workshop: MakeWorkshop) -> None:
    first, second = make_workshop("first"), make_workshop("second")
    first.new(1, {**EXACT, ("adapter", "rank"): 3, ("adapter", "alpha"): 1.5})
    start = second.start_new(1, {("adapter", "init_from"): str(first.run.export("last"))})
    assert (start.config.adapter.rank, start.config.adapter.alpha) == (3, 1.5)
    assert [code for code, _ in start.warnings] == ["init_from_shape_taken"]
    assert second.watch(start).exit_code == ExitCode.FINISHED
    asked = second.start_new(1, {("adapter", "init_from"): str(first.run.export("last")), ("adapter", "rank"): 8})
    assert (asked.config.adapter.rank, asked.config.adapter.alpha) == (8, 8.0)


def test_starting_from_convolutions_trains_them_too(make_workshop: MakeWorkshop) -> None:
    first, second = make_workshop("first"), make_workshop("second")
    sizes: Values = {("adapter", "rank"): 3, ("adapter", "conv_rank"): 2, ("adapter", "conv_alpha"): 0.5}
    first.new(1, {**EXACT, **sizes})
    file: Values = {("adapter", "init_from"): str(first.run.export("last"))}
    start = second.start_new(1, file)
    adapter = start.config.adapter
    assert (adapter.rank, adapter.conv_rank, adapter.conv_alpha) == (3, 2, 0.5)
    assert [code for code, _ in start.warnings] == ["init_from_shape_taken", "init_from_convolutions_taken"]
    assert second.watch(start).exit_code == ExitCode.FINISHED
    chosen = second.start_new(1, {**file, ("adapter", "targets"): "full"}).config.adapter
    assert (chosen.rank, chosen.conv_rank, chosen.resolved_conv_rank) == (3, None, 3)


def test_starting_from_a_lora_that_trains_the_text_encoder_too(make_workshop: MakeWorkshop) -> None:
    first, second = make_workshop("first"), make_workshop("second")
    trains: Values = {("adapter", "train_text_encoder"): True}
    first.new(1, {**EXACT, **trains, ("adapter", "rank"): 2})
    init_from: Values = {("adapter", "init_from"): str(first.run.export("last"))}
    with pytest.raises(ModelError) as caught:
        second.start_new(1, init_from)
    assert caught.value.code == "init_from_text_encoder"
    assert second.new(1, {**init_from, **trains}).exit_code == ExitCode.FINISHED


@pytest.mark.parametrize(("content", "code"), [(b"<html>", "model_is_web_page"), (b"\x80\x02}q\x00.", "lora_pickle")])
def test_starting_from_what_is_no_lora_file(workshop: Workshop, content: bytes, code: str) -> None:
    (workshop.folder / "a.pt").write_bytes(content)
    with pytest.raises(ModelError) as caught:
        workshop.start_new(1, {("adapter", "init_from"): "a.pt"})
    assert caught.value.code == code
