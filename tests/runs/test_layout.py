import sys
from datetime import datetime
from pathlib import Path

import pytest

from lorasmith.errors import InputError
from lorasmith.runs import layout
from lorasmith.runs.layout import RunFolder, free_name, stamp

NOON = datetime(2025, 3, 4, 12, 5, 6)


def test_the_names_are_those_of_the_manual() -> None:
    run = RunFolder(Path("/x/lora_output"))
    assert run.ledger == Path("/x/lora_output/ledger.jsonl")
    assert run.supervisor_log == Path("/x/lora_output/supervisor.jsonl")
    assert run.config == Path("/x/lora_output/run.toml")
    assert run.lock == Path("/x/lora_output/run.lock")
    assert run.tensorboard == Path("/x/lora_output/logs")
    assert run.samples == Path("/x/lora_output/samples")
    assert run.export("last") == Path("/x/lora_output/last.safetensors")
    assert run.export("last", 100) == Path("/x/lora_output/last-step00000100.safetensors")
    assert run.new_state("狀態目錄", NOON) == Path("/x/lora_output/狀態目錄_20250304_120506")
    assert run.backup == Path("/x/lora_output_backup")
    assert run.loss_log == Path("/x/training_logs/training_loss_log.txt")
    assert run.staging == Path("/x/lora_output.starting")
    assert run.early_ledger.parent == run.staging


def test_two_runs_side_by_side_share_no_path() -> None:
    def paths(run: RunFolder) -> set[Path]:
        made = {run.export("last"), run.new_state("state", NOON)}
        of_properties = {getattr(run, name) for name, one in vars(RunFolder).items() if isinstance(one, property)}
        return {one for one in made | of_properties if one != Path("/x/training_logs")}

    one, two, usual = (paths(RunFolder(Path("/x") / name)) for name in ("one", "two", "lora_output"))
    assert not one & two and not one & usual
    assert Path("/x/training_logs/one/training_loss_log.txt") in one
    assert Path("/x/one_backup") in one


def test_a_taken_name_gets_a_number_before_its_suffix(tmp_path: Path) -> None:
    assert free_name(tmp_path / "a.b") == tmp_path / "a.b"
    (tmp_path / "a.b").touch()
    assert free_name(tmp_path / "a.b") == tmp_path / "a_2.b"
    (tmp_path / "a_2.b").symlink_to("nowhere")
    assert free_name(tmp_path / "a.b") == tmp_path / "a_3.b"
    (tmp_path / "state_1").mkdir()
    assert free_name(tmp_path / "state_1") == tmp_path / "state_1_2"


def test_stamps_sort_as_time_does() -> None:
    assert stamp(NOON) == "20250304_120506"
    assert stamp(NOON) < stamp(NOON.replace(hour=13)) < stamp(NOON.replace(month=11))


def test_the_files_of_a_report_share_a_stamp_that_no_file_has_yet(tmp_path: Path) -> None:
    run, now = RunFolder(tmp_path / "lora_output"), datetime(2026, 5, 28, 20, 30, 1)
    first = run.reports(now)
    assert first.html == tmp_path / "training_logs" / "lora_training_report_20260528_203001.html"
    assert first.png.name == "lora_training_curves_20260528_203001.png"
    first.png.parent.mkdir()
    first.png.touch()
    assert run.reports(now).json.name == "lora_training_report_20260528_203001_2.json"


def test_the_top_of_a_disk_is_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        layout.run_at(tmp_path, "/")
    assert caught.value.code == "output_unusable"


def test_a_folder_that_the_locale_cannot_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    with pytest.raises(InputError, match="name_beyond_locale"):
        layout.run_at(tmp_path, "輸出")
    with pytest.raises(InputError, match="name_beyond_locale"):
        layout.run_at(tmp_path / "訓", "lora_output")
