from __future__ import annotations

import csv
from datetime import datetime
from pathlib import Path

import pytest

from lorasmith.errors import ResourceError
from lorasmith.messages import tr
from lorasmith.reading.fold import curves_of
from lorasmith.reports.loss_log import LossLog
from tests.reading.made_up import evaluated
from tests.ui.fake_engine import T0, run_started, step

HEADER = "step,epoch,total_loss,average_loss,visual_loss,semantic_loss,color_loss,learning_rate,timestamp,unavailable"
EVENTS = [run_started(5), *(step(number) for number in range(1, 6))]

NO_CLIP = tr("en", "unavailable.no_clip_model")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_header_is_the_promised_one_and_every_step_has_a_row(tmp_path: Path) -> None:
    path = tmp_path / "training_logs" / "training_loss_log.txt"
    LossLog(path).rewrite(curves_of(EVENTS))
    assert path.read_text(encoding="utf-8").splitlines()[0] == HEADER
    found = rows(path)
    assert [int(row["step"]) for row in found] == [1, 2, 3, 4, 5]
    assert float(found[2]["total_loss"]) == 0.5 / 3  # to the last bit
    assert float(found[2]["average_loss"]) == pytest.approx((0.5 + 0.25 + 0.5 / 3) / 3)
    assert float(found[2]["learning_rate"]) == 1e-4
    assert datetime.fromisoformat(found[2]["timestamp"]).timestamp() == T0 + 1.5
    assert {found[2][f"{name}_loss"] for name in ("visual", "semantic", "color")} == {found[2]["unavailable"]} == {""}


def test_appending_gives_the_same_file_as_making_it_at_once(tmp_path: Path) -> None:
    curves = curves_of(EVENTS)
    at_once, grown = LossLog(tmp_path / "a.txt"), LossLog(tmp_path / "b.txt")
    at_once.rewrite(curves)
    grown.rewrite(curves_of(EVENTS[:3]))
    for point in curves.points[2:]:
        grown.append(point)
    assert grown.path.read_bytes() == at_once.path.read_bytes()


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    log = LossLog(tmp_path / "log.txt")
    log._path = Path("/dev/full")
    if not log.path.exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(ResourceError):
        log.append(curves_of(EVENTS).points[0])


def cells(path: Path) -> list[tuple[str, str, str]]:
    return [(row["visual_loss"], row["semantic_loss"], row["color_loss"]) for row in rows(path)]


def test_what_was_measured_stands_at_its_step_and_what_could_not_be_is_na(tmp_path: Path) -> None:
    log = LossLog(tmp_path / "log.txt")
    log.rewrite(curves_of(EVENTS))
    control = evaluated(3, tmp_path, is_control=True)
    measured = evaluated(3, tmp_path, unavailable={"semantic": "no_clip_model"})
    log.add_evaluation(control, curves_of([*EVENTS, control]))
    assert cells(log.path) == [("", "", "")] * 5
    log.add_evaluation(measured, curves_of([*EVENTS, control, measured]))
    expected = (str(measured.visual), "N/A", str(measured.color))
    assert cells(log.path) == [("", "", "")] * 2 + [expected] + [("", "", "")] * 2
    assert [row["unavailable"] for row in rows(log.path)] == [
        "", "", f"semantic: {NO_CLIP}", "", "",
    ]  # fmt: skip


def test_one_reason_of_several_measures_stands_there_once(tmp_path: Path) -> None:
    log = LossLog(tmp_path / "log.txt")
    missing = {"visual": "base_model_failed", "semantic": "no_clip_model", "color": "base_model_failed"}
    log.rewrite(curves_of([*EVENTS, evaluated(5, tmp_path, unavailable=missing)]))
    assert cells(log.path)[4] == ("N/A", "N/A", "N/A")
    said = rows(log.path)[4]["unavailable"]
    assert said.startswith("visual, color: ") and said.endswith(f"semantic: {NO_CLIP}")
    assert said.isascii()
