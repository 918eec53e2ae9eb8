"""The tools on the command line."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from lorasmith.errors import ConfigError, ExitCode
from lorasmith.lora_files.reader import read_lora
from lorasmith.messages import LANGUAGES
from lorasmith.ui.cli import Command
from lorasmith.ui.tools import convert, extract, merge, resize
from lorasmith.ui.translator import Translator
from tests.families.flux1.miniature import make_model as make_flux1
from tests.families.flux1.miniature import make_split as make_flux1_split
from tests.lora_files.written import saved
from tests.lora_tools.flow import FlowMade, with_clip
from tests.lora_tools.flow import lora as flow_lora
from tests.lora_tools.made import write

EN = Translator("en")


@pytest.mark.parametrize("language", LANGUAGES)
def test_convert_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str], language: str) -> None:
    source, out = write(tmp_path / "in"), tmp_path / "out.safetensors"
    status = convert([str(source), str(out), "--to", "diffusers", "--precision", "bf16"], Translator(language), "x")
    shown = capsys.readouterr().out
    assert status == ExitCode.FINISHED and out.exists() and str(out) in shown and "--precision fp32" in shown


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], "files_count"),
        (["a", "b", "c", "--to", "kohya"], "files_count"),
        (["a", "b"], "option_missing"),
        (["a", "b", "--to", "else"], "option_choice"),
        (["a", "b", "--to", "kohya", "--precision", "fp8"], "option_choice"),
    ],
)
def test_bad_arguments(arguments: list[str], code: str) -> None:
    with pytest.raises(ConfigError, match=code):
        convert(arguments, EN, "lorasmith convert")


def test_merge_and_resize(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(write(tmp_path / name)) for name in ("a", "b")]
    merged, smaller = str(tmp_path / "merged.safetensors"), str(tmp_path / "smaller.safetensors")
    assert merge([*files, merged, "--weights", "1,-0.5"], EN, "lorasmith merge") == ExitCode.FINISHED
    shown = capsys.readouterr().out
    assert "Ranks 4 to 4" in shown and ".safetensors`:" not in shown
    assert merge([*files, str(tmp_path / "no_suffix"), "--rank", "64"], EN, "lorasmith merge") == ExitCode.FINISHED
    assert "end in `.safetensors`" in capsys.readouterr().out
    assert set(read_lora(tmp_path / "no_suffix").alphas) == {4.0}  # of ranks 4
    assert resize([merged, smaller, "--rank", "2"], EN, "lorasmith resize") == ExitCode.FINISHED
    captured = capsys.readouterr()
    assert "Ranks 2 to 2; every layer keeps at least 100 %" in captured.out and "3 of 3 layers" in captured.err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["a", "b"], "limit_missing"),
        (["a", "b", "--rank", "0"], "option_choice"),
        (["a", "b", "--rank", "1.5"], "option_choice"),
        (["a", "b", "--energy", "1.5"], "option_choice"),
        (["a", "b", "--ratio", "x"], "option_choice"),
    ],
)
def test_limits_of_ranks(arguments: list[str], code: str) -> None:
    with pytest.raises(ConfigError, match=code):
        resize(arguments, EN, "lorasmith resize")
    with pytest.raises(ConfigError, match="files_count"):
        merge(arguments[:2], EN, "lorasmith merge")


def test_a_model_with_a_lora_and_the_lora_again(nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "lora_unet_mid_block_attentions_0_proj_in"
    unet = safetensors.torch.load_file(nano / "unet" / "diffusion_pytorch_model.safetensors")
    width = len(unet["mid_block.attentions.0.proj_in.weight"])
    pair = {f"{name}.lora_down.weight": torch.ones(1, width), f"{name}.lora_up.weight": torch.ones(width, 1)}
    lora = write(tmp_path / "lora", {end: tensor / 8 for end, tensor in pair.items()})
    tuned, again = tmp_path / "tuned", tmp_path / "again.safetensors"
    assert merge([str(lora), str(tuned), "--into", str(nano)], EN, "lorasmith merge") == ExitCode.FINISHED
    captured = capsys.readouterr()
    assert "(layers: 1)" in captured.out and "1 of 1 layers" in captured.err
    models = ["--base", str(nano), "--tuned", str(tuned)]
    assert extract([str(again), *models, "--rank", "4", "--energy", "0.99"], EN, "x") == ExitCode.FINISHED
    captured = capsys.readouterr()
    assert "Ranks 1 to 1" in captured.out and "layers" in captured.err


def test_options_that_go_together() -> None:
    with pytest.raises(ConfigError, match="option_not_with"):
        merge(["a", "b", "--into", "c", "--rank", "2"], EN, "lorasmith merge")
    with pytest.raises(ConfigError, match="limit_missing"):
        extract(["out", "--base", "a", "--tuned", "b"], EN, "lorasmith extract")
    for given in (["--tuned", "b", "--rank", "1"], ["--base", "a", "--rank", "1"]):
        with pytest.raises(ConfigError, match="option_missing"):
            extract(["out", *given], EN, "lorasmith extract")


@pytest.mark.parametrize("command", [convert, merge, resize, extract])
def test_help(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["--help"], EN, "lorasmith x") == ExitCode.FINISHED
    shown = capsys.readouterr().out
    assert "OUT [OPTION" in shown and ("default: fp16" in shown) == (command is extract)


@pytest.mark.parametrize("language", LANGUAGES)
def test_layers_of_a_text_encoder_that_the_model_lacks_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], language: str
) -> None:
    folder = make_flux1(tmp_path / "folder")
    denoiser = make_flux1_split(folder, tmp_path / "models")
    flow_lora(FlowMade("flux1", folder, denoiser), tmp_path / "lora", "kohya")
    saved(with_clip(safetensors.torch.load_file(tmp_path / "lora"), folder), tmp_path / "with_clip")
    for model, is_named in ((folder, False), (denoiser, True)):
        files = [str(tmp_path / "with_clip"), str(tmp_path / f"{is_named}.safetensors"), "--into", str(model)]
        assert merge(files, Translator(language), "x") == ExitCode.FINISHED
        shown = capsys.readouterr().out
        assert (str(denoiser) in shown and "12" in shown.splitlines()[-1]) == is_named
