from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lorasmith.config import Request
from lorasmith.errors import ConfigError, ExitCode, LockedError, TrainerError
from lorasmith.runs.ledger import read_events, steps
from lorasmith.runs.locks import FolderLock
from lorasmith.runtime.given import given_options
from lorasmith.ui.cli import main
from lorasmith.ui.train_network import resumed, train_network
from lorasmith.ui.translator import Translator
from tests.laws.source_tree import ROOT
from tests.ui.fake_engine import FakeEngine

LINE = "--pretrained_model_name_or_path demo --learning_rate 1e-4 --max_train_steps 7"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(typed: str, fake: FakeEngine | None = None, command: str = "python train_network.py") -> int:
    fake = fake or FakeEngine()
    return train_network(shlex.split(typed), Translator("en"), command, engine=fake.engine())


def refused(typed: str, command: str = "python train_network.py") -> TrainerError:
    before = sorted(Path.cwd().rglob("*"))
    with pytest.raises(TrainerError) as caught:
        run(typed, command=command)
    assert sorted(Path.cwd().rglob("*")) == before
    return caught.value


def test_a_command_line_trains_exactly_its_steps(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"{LINE} --output_dir out --output_name mine --xformers") == ExitCode.FINISHED
    out = capsys.readouterr().out
    assert "Reached the maximum of 7 steps" in out
    assert out.count("no effect: --xformers") == 1
    assert "python train_lora.py --output out/mine-run --continue" in out
    assert len(steps(read_events(Path("out/mine-run/ledger.jsonl")))) == 7


def test_the_settings_of_the_folder_are_not_read() -> None:
    Path("lorasmith.toml").write_text("rank = 7\nno such key\n")
    fake = FakeEngine()
    run(LINE, fake)
    assert fake.asked[0][1]["adapter", "rank"] == 4


def test_defaults_of_sd_scripts_do_not_count_as_given() -> None:
    Path("file.toml").write_text("clip_skip = 2\n")
    fake = FakeEngine()
    author = "--metadata_author me --lr_scheduler cosine --lr_warmup_steps 0.1 --max_train_epochs 3"
    run(f"--config_file file {LINE} --save_precision fp32 {author}", fake)
    assert given_options(fake.asked[-1][1]) == (
        "base-model",
        "clip-skip",
        "lr-schedule",
        "lr-warmup",
        "metadata",
        "save-precision",
    )


@pytest.mark.parametrize(
    ("command", "accepted"),
    [("python train_network.py", False), ("python sdxl_train_network.py", True), ("lorasmith train-network", True)],
)
def test_each_script_has_its_own_arguments(command: str, accepted: bool) -> None:
    line = f"{LINE} --cache_text_encoder_outputs"
    if accepted:
        assert run(line, command=command) == ExitCode.FINISHED
    else:
        assert refused(line, command).code == "sd_other_script_taken"


def test_a_whole_command_may_be_pasted() -> None:
    assert run(f"accelerate launch --num_processes 1 sdxl_train_network.py {LINE} --cache_text_encoder_outputs") == 0


def test_without_a_base_model_the_argument_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train-network", "--max_train_steps=7"], script="python train_network.py") == ExitCode.BAD_INPUT
    assert "--pretrained_model_name_or_path" in capsys.readouterr().err


def test_a_value_that_we_refuse_is_about_the_argument_that_was_typed() -> None:
    error = refused(f"{LINE} --network_dim 5000")
    assert (error.code, error.fields["argument"]) == ("sd_value", "--network_dim")
    assert "1024" in error.fields["expected"]


def test_a_share_of_the_steps_is_of_those_in_the_epochs() -> None:
    fake = FakeEngine()
    line = LINE.replace("--max_train_steps 7", "--max_train_epochs 3")
    run(f"{line} --lr_scheduler cosine --lr_warmup_steps 0.1", fake)
    assert ("lr_schedule", "warmup_steps") not in fake.asked[0][1]
    assert fake.asked[1][1]["lr_schedule", "warmup_steps"] == 3


def test_resume_completes_the_steps_of_the_whole_run() -> None:
    line = f"{LINE} --output_dir out --output_name mine"
    with pytest.raises(ConfigError, match="sd_resume_unknown"):
        run(f"{line} --resume out/mine-state")
    run(line)
    Path("out/mine-run/run.toml").write_text("")
    fake = FakeEngine()
    assert run(f"{line.replace('steps 7', 'steps 12')} --resume out/mine-state", fake) == ExitCode.FINISHED
    mode, values, request, state = fake.asked[0]
    assert (mode, request.steps, state) == ("continue", 5, "")
    assert values["adapter", "rank"] == 4
    assert len(steps(read_events(Path("out/mine-run/ledger.jsonl")))) == 12
    assert refused(f"{line} --resume out/mine-state").code == "sd_resume_done"
    assert refused(f"{LINE} --output_dir out --resume out/mine-state").code == "sd_resume_other_run"


def test_steps_that_another_start_has_made_meanwhile_count() -> None:
    line = f"{LINE} --output_dir out"
    run(line)
    Path("out/last-run/run.toml").write_text("")
    fake = FakeEngine()
    engine = fake.engine()
    request = Request(output="out/last-run", steps=20)
    start = resumed(Path("out/last-state"), {}, request, engine=engine, here=Path.cwd())
    assert start.replanned() == start and fake.asked[0][2].steps == 13
    run(f"{line.replace('steps 7', 'steps 12')} --resume out/last-state")
    assert start.replanned().stop_at == 20
    assert fake.asked[-1][2].steps == 8


def test_a_state_of_sd_scripts_is_recognised() -> None:
    Path("theirs-000002-state").mkdir()
    Path("theirs-000002-state/optimizer.bin").write_bytes(b"")
    assert refused(f"{LINE} --resume theirs-000002-state").code == "sd_resume_foreign"


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("--network_dim 5000", "`--network_dim` cannot be 5000"),
        ("--max_train_steps -5", "`--max_train_steps` cannot be -5"),
        ("--mixed_precision fp17", "`--mixed_precision` cannot be `fp17`; possible: no, fp16, bf16"),
        ("--netwrok_dim 8", "did you mean `--network_dim`?"),
        ("--blocks_to_swap 8", "`--blocks_to_swap` is an argument of sd-scripts' `flux_train_network.py`"),
        ("--config_file wrong.toml", "did you mean `network_dim`?"),
        ("--dataset_config wrong.toml", "there is no key `netwrok_dim`"),
        ("--deepspeed", "a run uses a single device"),
    ],
)
@pytest.mark.parametrize("has_run", [False, True])
def test_what_is_refused_is_a_sentence_and_changes_nothing(
    typed: str, sentence: str, has_run: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("wrong.toml").write_text("netwrok_dim = 8\n")
    if has_run:
        run(LINE)
    before = tree(Path.cwd())
    assert main(["train-network", *LINE.split(), *typed.split()]) == ExitCode.BAD_INPUT
    assert sentence in capsys.readouterr().err
    assert tree(Path.cwd()) == before


def test_sentences_name_the_arguments_of_this_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("picture.png").touch()
    assert main(["train-network", *f"{LINE} --train_data_dir picture.png".split()]) == ExitCode.BAD_INPUT
    assert "with `--train_data_dir`" in capsys.readouterr().err


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): b"" if path.is_dir() else path.read_bytes() for path in sorted(folder.rglob("*"))}


def test_a_folder_in_use_is_refused() -> None:
    with FolderLock(Path("lora_output/last-run/run.lock")), pytest.raises(LockedError):
        run(LINE)


def test_output_config_writes_a_file_and_trains_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeEngine()
    assert run(f"{LINE} --output_config --config_file mine", fake) == ExitCode.FINISHED
    assert fake.asked == []
    assert "mine.toml" in capsys.readouterr().out
    assert run("--config_file mine", fake) == ExitCode.FINISHED
    assert fake.asked[0][2].steps == 7
    assert refused(f"{LINE} --output_config").code == "sd_output_config_nowhere"


def test_help_names_every_argument_of_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == ExitCode.FINISHED
    out = capsys.readouterr().out
    assert "--network_dim" in out and "--xformers" in out
    assert "--cache_text_encoder_outputs" not in out


@pytest.mark.parametrize("script", ["train_network.py", "sdxl_train_network.py"])
def test_the_scripts_answer_from_a_clone_in_both_languages(script: str) -> None:
    def answer(*typed: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, str(ROOT / script), *typed],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONUTF8": "1"},
        )
        return done.returncode, done.stderr

    assert answer("--netwrok_dim", "3") == (
        2,
        "Error: There is no argument `--netwrok_dim`\nhint: did you mean `--network_dim`?\n",
    )
    assert "是不是要打" in answer("--lang", "zh-TW", "--netwrok_dim", "3")[1]


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="sd_several_processes"):
        run(LINE)
