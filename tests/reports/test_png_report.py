from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from lorasmith.messages import LANGUAGES, tr
from lorasmith.reading.summary import RunSummary, summary_of
from lorasmith.reports import png_report as module
from lorasmith.reports.png_report import DOTS_PER_INCH, INCHES, png_report
from lorasmith.reports.reasons import why_not
from tests.reading.made_up import finished, started, stepped


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_is_a_picture_with_something_on_it(summary: RunSummary, language: str) -> None:
    picture = opened(png_report(summary, language)).convert("RGB")
    assert picture.size == (round(INCHES[0] * DOTS_PER_INCH), round(INCHES[1] * DOTS_PER_INCH))
    colours = picture.getcolors(1 << 24)
    assert colours is not None and len(colours) > 100
    assert (31, 111, 178) in {colour for _, colour in colours}  # the average
    assert (122, 79, 176) in {colour for _, colour in colours}  # the control


def test_runs_with_little_to_show(tmp_path: Path) -> None:
    missing = finished(tmp_path, unavailable={"semantic": "no_clip_model"})
    for events in ([], [started(tmp_path, 9)], [started(tmp_path, 9), *stepped([1])], missing):
        assert opened(png_report(summary_of(events, []), "en")).size[0] > 1000


@pytest.mark.parametrize("code", ["no_clip_model", "not_finite"])
def test_what_could_not_be_measured_is_said_in_its_panel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig

    def kept(self: Figure, *arguments: Any, **options: Any) -> None:
        drawn.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", kept)
    png_report(summary_of(finished(tmp_path, unavailable={"semantic": code}), []), "en")
    panels = {axes.get_title(loc="left"): [one.get_text() for one in axes.texts] for axes in drawn[0].axes}
    (said,) = panels.pop(tr("en", "chart.title.semantic"))
    assert said.startswith("N/A") and why_not("en", code) in " ".join(said.split())
    assert set(map(tuple, panels.values())) == {()}, "the others have their curves and nothing to say"


def test_chinese_is_written_where_a_font_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "chinese_fonts", lambda: ["No Such Font", "DejaVu Sans"])
    assert module.font_for("zh-TW") == "DejaVu Sans"
    monkeypatch.setattr(module, "chinese_fonts", lambda: ["No Such Font"])
    assert module.font_for("zh-TW") is None
    assert module.font_for("en") == ""
    monkeypatch.undo()
    assert "Microsoft JhengHei" in module.chinese_fonts()


def test_no_display_and_no_pyplot_is_needed(summary: RunSummary) -> None:
    png_report(summary, "en")
    assert "matplotlib.pyplot" not in sys.modules
