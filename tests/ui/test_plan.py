"""The command `plan`, without a trial. (With one, and against real runs: tests/end_to_end/test_plan.py.)"""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lorasmith.data.folder import Scan
from lorasmith.errors import ConfigError, DatasetError, ExitCode, InputError
from lorasmith.planning import speed
from lorasmith.planning.estimate import ProbeResult
from lorasmith.runtime.preflight import Start
from lorasmith.ui.plan import plan
from lorasmith.ui.translator import Translator
from tests.end_to_end.workshop import Workshop, tree
from tests.planning.test_plan import MEASURED


@pytest.fixture
def here(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Path:
    (workshop.folder / "lorasmith.toml").write_text(f"base_model = {json.dumps(str(workshop.base_model))}\n")
    monkeypatch.chdir(workshop.folder)
    return workshop.folder


def said(capsys: pytest.CaptureFixture[str], *typed: str, language: str = "en") -> str:
    assert plan([*typed, "--no-probe"], Translator(language), "lorasmith plan") == ExitCode.FINISHED
    return capsys.readouterr().out


def test_nothing_changes_and_all_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(here)
    plain = json.loads(said(capsys, "--steps", "22", "--json"))
    assert (plain["pictures"], plain["times_seen"], plain["suggested_steps"]) == (7, [2, 4], [200, 500])
    assert plain["time"] is None and plain["measured"]["code"] == "not_probed"
    for language, word in (("en", "suggested steps"), ("zh-TW", "建議步數")):
        page = said(capsys, "--steps", "22", language=language)
        assert word in page
        assert "200–500" in page
        assert "state_YYYYMMDD_HHMMSS/" in page or "狀態目錄_YYYYMMDD_HHMMSS/" in page
    assert tree(here) == before


def test_without_steps_it_plans_those_suggested(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = json.loads(said(capsys, "--json"))
    assert (plain["steps"], plain["steps_assumed"]) == (200, True)


def test_to_go_on_is_what_is_owed(workshop: Workshop, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.new(6, stop_after=2)
    plain = json.loads(said(capsys, "--continue", "--json"))
    assert (plain["first_step"], plain["stop_at"], plain["steps"]) == (2, 6, 4)
    assert "continue at step 2" in said(capsys, "--continue")


def test_what_is_odd_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = here / "lora_train_set"
    picture = next(data.glob("2_test/*.png"))
    (data / "test_10").mkdir()
    for name in ("test_10/a.png", "1_test/twice.png"):
        (data / name).write_bytes(picture.read_bytes())
    (data / "bad.png").write_bytes(b"")
    page = said(capsys, "--steps", "2", "--skip-bad-pictures")
    assert "10_test" in page  # the right name of the folder
    assert "copies of other pictures" in page
    assert "without a caption file" in page
    assert "bad.png: is empty" in page


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        ("--data nowhere", "dataset_missing"),
        ("--steps 0", "config_value"),
        ("--steps 2 --epochs 2", "steps_and_epochs"),
        ("--base-model nowhere", "base_model_not_found"),
        ("--continue", "no_run"),
        ("--no-such", "option_unrecognised"),
    ],
)
def test_bad_input_is_refused_as_by_train(here: Path, typed: str, code: str) -> None:
    before = tree(here)
    with pytest.raises(InputError) as caught:
        plan([*typed.split(), "--no-probe"], Translator("en"), "lorasmith plan")
    assert caught.value.code == code
    assert tree(here) == before


@pytest.mark.parametrize("json_asked", [False, True])
def test_choices_are_listed_when_none_fits(here: Path, capsys: pytest.CaptureFixture[str], json_asked: bool) -> None:
    with pytest.raises(ConfigError, match="memory_too_small"):
        plan(["--memory", "100MiB", *(["--json"] if json_asked else [])], Translator("en"), "lorasmith plan")
    page = capsys.readouterr().out
    assert (("feed-forward" in page), ("no" in page.split())) == (not json_asked, not json_asked)


def test_without_a_base_model(here: Path) -> None:
    (here / "lorasmith.toml").unlink()
    with pytest.raises(ConfigError, match="base_model_unnamed"):
        plan(["--no-probe"], Translator("en"), "lorasmith plan")


def test_all_bad_pictures_are_listed(here: Path) -> None:
    for name in ("a.png", "b.png"):
        (here / "lora_train_set" / name).write_bytes(b"")
    with pytest.raises(DatasetError) as caught:
        plan(["--no-probe"], Translator("en"), "lorasmith plan")
    assert [Path(one["path"]).name for one in caught.value.fields["problems"]] == ["a.png", "b.png"]


@pytest.mark.parametrize("json_asked", [False, True])
def test_with_speed_batch_sizes_are_tried_in_place_of_a_plan(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, json_asked: bool
) -> None:
    asked = list[tuple[int, int]]()

    def probe(start: Start, _found: Scan, *, batch_size: int) -> ProbeResult:
        asked.append((start.config.training.batch_size, batch_size))
        return replace(MEASURED, step_seconds=float(batch_size), peak_memory=0)

    monkeypatch.setattr(speed.try_batch_sizes, "__kwdefaults__", {"probe": probe})
    before = tree(here)
    typed = ["--speed", "--batch-size", "3", *(["--json"] if json_asked else [])]
    assert plan(typed, Translator("en"), "lorasmith plan") == ExitCode.FINISHED
    printed, progress = capsys.readouterr()
    assert "Tried: batch size 2" in progress
    assert asked == [(3, 1), (3, 2)]  # pictures come no faster with the second
    if json_asked:
        assert [trial["pictures_per_second"] for trial in json.loads(printed)["trials"]] == [1.0, 1.0]
    else:
        assert "Batch sizes tried" in printed and "suggested steps" not in printed
    assert tree(here) == before
