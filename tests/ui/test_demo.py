"""`lorasmith demo`: the folder it makes, and what it refuses. The training itself: tests/end_to_end/test_demo.py."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from PIL import Image

from lorasmith.demo import lesson
from lorasmith.errors import ConfigError
from lorasmith.runs.durable import write_atomically
from lorasmith.runtime.given import given_options
from lorasmith.ui.demo import demo
from lorasmith.ui.train import train
from lorasmith.ui.translator import Translator
from tests.ui.fake_engine import FakeEngine

EN = Translator("en")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_folder_holds_pictures_settings_and_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    assert demo(["there", "--steps", "7"], EN, "lorasmith demo", engine=engine.engine()) == 0
    folder = tmp_path / "there"
    settings = tomllib.loads((folder / "lorasmith.toml").read_text(encoding="utf-8"))
    assert settings["base_model"] == "demo"
    assert len(list((folder / "lora_train_set" / "10_zorb").glob("*.png"))) >= 24
    ((mode, values, request, _),) = engine.asked
    assert (mode, request.steps, values["model", "base_model"]) == ("new", 7, "demo")
    shown = capsys.readouterr().out
    assert str(folder / "lora_output" / "last.safetensors") in shown
    for command in ("lorasmith logs", "lorasmith tensorboard", "lorasmith train --continue --steps 100", "cd there"):
        assert command in shown
    assert f"lorasmith train --output {Path('there/lora_output')} --continue" in shown  # said before the `cd`


def test_only_what_a_person_has_changed_counts_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lesson, "draw_lesson", lambda _folder: None)
    engine = FakeEngine()
    assert demo([], EN, "lorasmith demo", engine=engine.engine()) == 0
    folder = tmp_path / "lorasmith_demo"
    settings = folder / "lorasmith.toml"
    settings.write_text(settings.read_text().replace("lr = 0.0025", "lr = 0.002") + 'trigger_word = "zorb"\n')
    train(["--new", "--steps", "7", "--batch-size", "24"], EN, "lorasmith train", engine=engine.engine(), here=folder)
    assert [given_options(values) for _, values, _, _ in engine.asked] == [(), ("batch-size", "lr", "trigger-word")]


@pytest.mark.ci
def test_a_second_time_it_uses_its_own_folder_again(tmp_path: Path) -> None:
    for _ in range(2):
        assert demo([], EN, "lorasmith demo", engine=FakeEngine().engine()) == 0
    assert (tmp_path / "lorasmith_demo").is_dir()


def test_one_cut_short_while_it_draws_leaves_whole_pictures_and_a_folder_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        done: list[Path] = []

        def cut_short(path: Path, data: bytes) -> Path:
            done.append(path)
            if len(done) == 5:
                path.with_name(f".{path.name}.1.tmp").write_bytes(data[:9])
                raise KeyboardInterrupt
            return write_atomically(path, data)

        patch.setattr(lesson, "write_atomically", cut_short)
        demo([], EN, "lorasmith demo", engine=FakeEngine().engine())
    pictures = list((tmp_path / "lorasmith_demo").rglob("*.png"))
    assert len(pictures) == 2
    for picture in pictures:
        with Image.open(picture) as image:
            image.load()
    assert demo([], EN, "lorasmith demo", engine=FakeEngine().engine()) == 0
    assert len(list((tmp_path / "lorasmith_demo" / "lora_train_set" / "10_zorb").glob("*.png"))) >= 24


@pytest.mark.parametrize("content", ["picture.png", "lorasmith.toml"])
def test_it_leaves_somebody_elses_folder_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / content).write_text('base_model = "x"\n')
    with pytest.raises(ConfigError, match="demo_folder_taken"):
        demo(["mine"], EN, "lorasmith demo", engine=FakeEngine().engine())
    assert [one.name for one in (tmp_path / "mine").iterdir()] == [content]


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        ("--steps 0", "config_value"),
        ("--steps many", "config_value"),
        ("--steps", "option_without_value"),
        ("--stepz 4", "option_unknown"),
        ("one two", "argument_unexpected"),
        ("--lang fr", "config_value"),
    ],
)
def test_what_it_does_not_take(tmp_path: Path, typed: str, code: str) -> None:
    with pytest.raises(ConfigError, match=code):
        demo(typed.split(), EN, "lorasmith demo", engine=FakeEngine().engine())
    assert not list(tmp_path.iterdir())


def test_help_says_what_it_does_in_both_languages(capsys: pytest.CaptureFixture[str]) -> None:
    for language, word in (("en", "no download"), ("zh-TW", "不必下載")):
        assert demo(["--help"], Translator(language), "lorasmith demo") == 0
        shown = capsys.readouterr().out
        assert word in shown
        assert "300" in shown


@pytest.mark.parametrize("folder", ["file/x", "n" * 300])
def test_a_folder_that_cannot_be_is_a_sentence(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="demo_folder_impossible"):
        demo([folder], EN, "lorasmith demo", engine=FakeEngine().engine())
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
