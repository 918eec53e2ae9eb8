from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lorasmith.errors import ConfigError, ExitCode, LockedError, ModelError, NoStateError, TrainerError
from lorasmith.runs.ledger import read_events, steps
from lorasmith.runs.locks import FolderLock
from lorasmith.runtime.preflight import Start
from lorasmith.ui.train import train
from lorasmith.ui.translator import Translator
from tests.ui.fake_engine import FakeEngine

RANK = ("adapter", "rank")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(typed: str, fake: FakeEngine | None = None, language: str = "en") -> int:
    fake = fake or FakeEngine()
    return train(typed.split(), Translator(language), "python train_lora.py", engine=fake.engine())


def refused(typed: str) -> TrainerError:
    before = sorted(Path.cwd().rglob("*"))
    with pytest.raises(TrainerError) as caught:
        run(typed)
    assert sorted(Path.cwd().rglob("*")) == before
    return caught.value


def test_a_new_run_does_the_steps_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--new --steps 7 --base-model demo") == ExitCode.FINISHED
    out = capsys.readouterr().out
    assert "Reached the maximum of 7 steps" in out
    assert out.startswith("Device: cpu (Abacus 2000), because no GPU was found\n")
    assert len(steps(read_events(Path("lora_output/ledger.jsonl")))) == 7
    assert len(Path("training_logs/training_loss_log.txt").read_text().splitlines()) == 8
    assert len(list(Path("lora_output/logs").iterdir())) == 1


@pytest.mark.parametrize("mode", ["--new --base-model demo", "--continue"])
def test_a_folder_that_is_held_is_refused_before_a_picture_is_read(mode: str) -> None:
    fake = FakeEngine()
    with FolderLock(Path("lora_output/run.lock")), pytest.raises(LockedError) as caught:
        run(f"{mode} --steps 7", fake)
    assert (caught.value.exit_code, fake.asked) == (ExitCode.LOCKED, [])


def test_the_same_in_chinese_names_the_state_folders(capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeEngine()
    assert run("--new --steps 7 --base-model demo", fake, "zh-TW") == 0
    assert "達到最大訓練步數 7" in capsys.readouterr().out
    assert fake.asked[0][3] == "狀態目錄"


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("", "python train_lora.py --continue"),
        (" --output o'4", "python train_lora.py --output 'o'\"'\"'4' --continue"),
    ],
)
def test_what_to_type_next_is_about_this_run(capsys: pytest.CaptureFixture[str], typed: str, shown: str) -> None:
    run("--new --steps 7 --base-model demo" + typed)
    assert shown in capsys.readouterr().out


def test_command_line_over_config_over_folder_settings() -> None:
    Path("lorasmith.toml").write_text('base_model = "a"\nrank = 1\nlr = 1.0\nseed = 1\nsteps = 3\n')
    Path("mine.toml").write_text("rank = 2\nlr = 2.0\n")
    fake = FakeEngine()
    run("--new --config mine.toml --rank 3", fake)
    _, values, request, _ = fake.asked[0]
    assert values == {("model", "base_model"): "a", RANK: 3, ("optimizer", "lr"): 2.0, ("", "seed"): 1}
    assert request.steps == 3


def test_continue_reads_no_folder_settings() -> None:
    run("--new --steps 3 --base-model demo")
    Path("lorasmith.toml").write_text("rank = 1\nlang = 'en'\noutput = 'other'\n")
    fake = FakeEngine()
    run("--continue --steps 2", fake)
    assert fake.asked[0][:2] == ("continue", {})
    Path("lorasmith.toml").write_text("no such key = [\n")
    run("--continue --steps 2", fake)


def test_without_a_terminal_nothing_is_asked() -> None:
    assert refused("").code == "mode_unnamed"
    assert refused("--new --base-model demo").code == "steps_unnamed"
    assert refused("--new --steps 3").code == "base_model_unnamed"


def test_epochs_are_steps_enough() -> None:
    assert run("--new --epochs 1 --base-model demo") == 0


def test_continue_without_a_run_is_exit_4() -> None:
    error = refused("--continue --steps 3")
    assert isinstance(error, NoStateError) and error.exit_code == 4


def test_continue_without_steps_finishes_what_is_owed(capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeEngine(supervisor={"stop_after": 20})
    assert run("--new --steps 30 --base-model demo", fake) == ExitCode.STOPPED
    assert "python train_lora.py --continue" in capsys.readouterr().out
    assert run("--continue") == 0
    assert "Continuing at step 20: 10 more, to step 30" in capsys.readouterr().out
    error = refused("--continue")
    assert (error.code, error.exit_code) == ("nothing_owed", 2)


def test_steps_are_on_top_of_those_saved(capsys: pytest.CaptureFixture[str]) -> None:
    run("--new --steps 3 --base-model demo")
    run("--continue --steps 2")
    assert "Reached the maximum of 5 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "code"),
    [("rnak = 3\n", "config_unknown_key"), ("rank = [\n", "config_unreadable"), ("steps = 'x'\n", "config_value")],
)
def test_a_wrong_config_is_refused(text: str, code: str) -> None:
    Path("mine.toml").write_text(text)
    assert refused("--new --config mine.toml --base-model demo").code == code
    assert refused("--new --config gone.toml").code == "config_missing"


def test_a_config_may_name_the_language(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.toml").write_text("lang = 'zh_TW'\n")
    run("--new --steps 3 --base-model demo --config mine.toml")
    assert "達到最大訓練步數 3" in capsys.readouterr().out
    run("--new --steps 3 --base-model demo --config mine.toml --lang en")
    assert "Reached" in capsys.readouterr().out


@pytest.mark.parametrize("typed", ["--help", "--version"])
def test_help_and_version_need_nothing(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    def nobody(*_: Any) -> Any:
        raise AssertionError("the engine was asked")

    assert train([typed], Translator("en"), "lorasmith train") == 0
    assert capsys.readouterr().out


def test_the_base_model_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(ConfigError, match="steps_and_epochs"):
        run("--new --steps 3 --epochs 3")


HOLD_OUT = ("dataset", "hold_out")


def asked_at_a_terminal(
    monkeypatch: pytest.MonkeyPatch, arguments: str, answers: list[str], *, pictures: int
) -> tuple[Any, list[str]]:
    """The settings of the start, and the answers that were not asked for."""
    left = list(answers)
    monkeypatch.setattr("lorasmith.ui.train.can_ask", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: left.pop(0))
    fake = FakeEngine(pictures=pictures)
    run(arguments, fake)
    return fake.asked[0][1], left


@pytest.mark.parametrize(
    ("answers", "expected"), [(["y"], "auto"), ([""], None), (["n"], None), (["maybe", "YES"], "auto")]
)
def test_the_first_run_offers_to_hold_some_pictures_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answers: list[str], expected: str | None
) -> None:
    arguments = "--new --steps 3 --base-model demo"
    values, left = asked_at_a_terminal(monkeypatch, arguments, answers, pictures=45)
    assert (values.get(HOLD_OUT), left) == (expected, [])
    assert "Pictures: 45. Hold out 2 of them," in capsys.readouterr().out
    values, left = asked_at_a_terminal(monkeypatch, arguments, ["y"], pictures=45)  # there is a run now
    assert (HOLD_OUT in values, left) == (False, ["y"])


@pytest.mark.parametrize(("typed", "pictures"), [("", 19), (" --hold-out 0", 45), (" --hold-out 3", 45)])
def test_it_is_not_offered(monkeypatch: pytest.MonkeyPatch, typed: str, pictures: int) -> None:
    """With few pictures, or where it was said."""
    arguments = "--new --steps 3 --base-model demo" + typed
    assert asked_at_a_terminal(monkeypatch, arguments, ["y"], pictures=pictures)[1] == ["y"]


@dataclass
class UnsureEngine(FakeEngine):
    """An engine whose base model may be of several forms."""

    def new_run(self, values: Any, request: Any, *, state_prefix: str, here: Path) -> Start:
        if ("model", "base_form") not in values:
            raise ModelError("model_form_unnamed", path="mine.safetensors", form="Krea 2 Raw")
        return super().new_run(values, request, state_prefix=state_prefix, here=here)


@pytest.mark.parametrize("language", ["en", "zh-TW"])
@pytest.mark.parametrize(("answers", "expected"), [(["1"], "base"), (["raw", "2"], "distilled"), (["3"], "")])
def test_what_no_file_tells_is_asked(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    language: str,
    answers: list[str],
    expected: str,
) -> None:
    arguments, fake, left = "--new --steps 3 --base-model mine.safetensors", UnsureEngine(), list(answers)
    with pytest.raises(ModelError, match="model_form_unnamed"):  # no terminal
        run(arguments, fake, language)
    monkeypatch.setattr("lorasmith.ui.train.can_ask", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: left.pop(0))
    if expected:
        run(arguments, fake, language)
        assert fake.asked[0][1]["model", "base_form"] == expected
        assert f"`--base-form {expected}`" in capsys.readouterr().out
    else:
        with pytest.raises(ModelError, match="model_form_unnamed"):
            run(arguments, fake, language)
    assert left == []


@dataclass
class EngineOfParts(FakeEngine):
    """An engine whose base model has two files for each of two parts."""

    def new_run(self, values: Any, request: Any, *, state_prefix: str, here: Path) -> Start:
        for part, option, at in (("T5", "text-encoder", ("model", "text_encoder")), ("VAE", "vae", ("model", "vae"))):
            if at not in values:
                raise ModelError("part_several", part=part, option=option, paths=[f"{part}1", f"{part}2"])
        return super().new_run(values, request, state_prefix=state_prefix, here=here)


def test_files_that_fit_alike_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, fake, answers = "--new --steps 3 --base-model mine.safetensors", EngineOfParts(), ["2", "0", "x", "1"]
    with pytest.raises(ModelError, match="part_several"):  # no terminal
        run(arguments, fake)
    monkeypatch.setattr("lorasmith.ui.train.can_ask", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: answers.pop(0))
    run(arguments, fake)
    values = fake.asked[0][1]
    assert (values["model", "text_encoder"], values["model", "vae"], answers) == (("T52",), "VAE1", [])
    assert "Several files fit the base model as its T5" in capsys.readouterr().out
