"""A plan as tables."""

from dataclasses import replace
from pathlib import Path

import pytest

from lorasmith.data.findings import Finding
from lorasmith.planning import plan
from lorasmith.planning.estimate import Unmeasured
from lorasmith.planning.plan import RunPlan, plan_of
from lorasmith.session.lanes import Lane, LaneEstimate
from lorasmith.ui.plan_view import show
from lorasmith.ui.translator import Translator
from tests.end_to_end.workshop import Workshop
from tests.planning.test_plan import MEASURED


@pytest.fixture
def made(workshop: Workshop) -> RunPlan:
    start = workshop.start_new(250, {("cadence", "save_every"): 100, ("evaluation", "every"): 0})
    return plan_of(start, plan.scan_of(start), MEASURED)


def shown(capsys: pytest.CaptureFixture[str], plan: RunPlan, language: str = "en", here: Path = Path("/")) -> str:
    show(Translator(language), plan, here)
    return capsys.readouterr().out


def row(page: str, name: str) -> list[str]:
    """The cells beside `name`."""
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.split("│")[1:-1]]
        if cells and cells[0] == name:
            return cells[1:]
    raise AssertionError(f"no row {name}")


def test_numbers_stand_beside_their_names(capsys: pytest.CaptureFixture[str], made: RunPlan) -> None:
    page = shown(capsys, made)
    assert made.time is not None
    assert row(page, "2_test") == ["4", "2", "45.5"]
    assert row(page, "steps") == ["250"]
    assert row(page, "suggested steps") == ["200–500 for 7 pictures"]
    assert row(page, "device") == ["cpu (Abacus 2000), fp32"]
    assert row(page, "peak memory") == ["0.0 MiB"]
    assert row(page, "layers trained") == ["denoiser: 192 of 278 in the published model, rank 16"]
    assert row(page, "time")[0].startswith("0:04:")
    assert page.rstrip().endswith("nothing was changed")


def test_components_have_names_in_the_readers_language(capsys: pytest.CaptureFixture[str], made: RunPlan) -> None:
    page = shown(capsys, made, language="zh_TW")
    assert row(page, "訓練的層") == ["去雜訊網路：官方模型 278 層中的 192 層，rank 16"]


@pytest.mark.parametrize(("language", "fits"), [("en", ["yes", "no"]), ("zh_TW", ["是", "否"])])
def test_lanes(capsys: pytest.CaptureFixture[str], made: RunPlan, language: str, fits: list[str]) -> None:
    gib, lanes = 1 << 30, (Lane("none", "auto", 0.0), Lane("block", "int8", 0.5))
    of_lanes = [
        LaneEstimate(lane, 3 * gib, gib // 2, 4 * gib, gib, 6 * gib, 0, "auto", is_fitting)
        for lane, is_fitting in zip(lanes, (True, False), strict=True)
    ]
    page = shown(capsys, replace(made, lanes=tuple(of_lanes)), language=language)
    assert row(page, "none") == ["auto", "0", "3.5 GiB", "4.0 GiB", "6.0 GiB", "8.5 GiB", fits[0]]
    assert row(page, "block") == ["int8", "0.5", "3.5 GiB", "4.0 GiB", "6.0 GiB", "8.5 GiB", fits[1]]


def test_noise_levels_are_bars(capsys: pytest.CaptureFixture[str], made: RunPlan) -> None:
    assert "Noise levels" not in shown(capsys, made)
    levels = tuple(2 * (number + 1) / 420 for number in range(20))
    page = shown(capsys, replace(made, noise_levels=levels))
    assert row(page, "0.9 - 1.0") == ["\u2588" * 40, "18.6%"]
    assert row(page, "0.0 - 0.1") == ["\u2588" * round(40 * 3 / 39), "1.4%"]


def test_files_are_patterns_from_here(capsys: pytest.CaptureFixture[str], made: RunPlan, workshop: Workshop) -> None:
    page = shown(capsys, made, here=workshop.folder)
    for pattern in ("last.safetensors", "last-step*.safetensors", "state_YYYYMMDD_HHMMSS/*"):
        assert row(page, f"lora_output/{pattern}") == []


def test_findings_stand_below_the_tables(capsys: pytest.CaptureFixture[str], made: RunPlan) -> None:
    found = Finding("captions_alone", {"count": 5, "files": ["a.txt", "b.txt", "c.txt"]})
    page = shown(capsys, replace(made, findings=(found,)))
    assert "\nNote: caption files without a picture: 5\n  a.txt, b.txt, c.txt, and 2 more\n" in page
    assert "Nothing is wrong" not in page


def test_warnings_about_prompts_stand_there_too(capsys: pytest.CaptureFixture[str], made: RunPlan) -> None:
    """Only a probe can tell, as for what it finds of captions."""
    assert made.findings == ()
    page = shown(capsys, replace(made, findings=(Finding("negative_of_distilled", {"count": 1}),)))
    assert "\nWarning: " in page and "`--n` has no effect" in page


def test_what_was_not_measured_is_not_made_up(capsys: pytest.CaptureFixture[str], made: RunPlan) -> None:
    failed = replace(made, measured=Unmeasured("probe_stalled", {"seconds": 42}), time=None, disk=None)
    page = shown(capsys, failed)
    assert [row(page, name) for name in ("time", "peak memory", "disk")] == [["N/A"]] * 3
    assert "The trial run did not finish within 42 s" in page
    assert "`--no-probe` was given" in shown(capsys, replace(failed, measured=Unmeasured("not_probed", {})))


def test_a_disk_too_small(capsys: pytest.CaptureFixture[str], made: RunPlan) -> None:
    assert "The disk has too little space" in shown(capsys, replace(made, free_bytes=10))
    assert "The disk has too little space" not in shown(capsys, made)


def test_device_without_told_memory(capsys: pytest.CaptureFixture[str], made: RunPlan) -> None:
    page = shown(capsys, replace(made, measured=replace(MEASURED, peak_memory=0)))
    assert row(page, "peak memory") == ["N/A"]
