from __future__ import annotations

import os
from pathlib import Path

from lorasmith.config import ExportConfig
from lorasmith.reading.files import RunFiles, find_files
from lorasmith.reading.reader import read_summary
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.naming import FileNames
from tests.reading.made_runs import LORA_BYTES, T0, begun, finished_run


def found(run: RunFolder) -> RunFiles:
    return find_files(FileNames(run, ExportConfig()), read_summary(run).files, first_start=begun(20))


def test_the_files_of_a_run_that_went_well(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "lora_output")
    files = found(run)
    assert (files.lora, files.lora_bytes, files.lora_step) == (run.export("last"), LORA_BYTES, 20)
    assert [state.step for state in files.states] == [20]
    assert files.step_loras == (run.export("last", 10),) and files.best_lora == run.root / "last-best.safetensors"
    assert [path.suffix for path in files.reports] == [".html", ".json", ".png"]
    assert files.loss_log == run.loss_log and files.samples is None


def test_reports_of_an_older_run_are_not_listed(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "lora_output")
    older = run.training_logs / "lora_training_report_20301231_000000.html"
    older.write_text("x")
    os.utime(older, (T0 - 60, T0 - 60))
    assert older not in found(run).reports


def test_a_folder_without_a_run_has_no_files(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "nowhere")
    files = find_files(FileNames(run, ExportConfig()), (), first_start=None)
    assert (files.lora, files.states, files.reports, files.backup) == (None, (), (), None)
