from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from PIL import Image

from lorasmith.messages import LANGUAGES
from lorasmith.reading.summary import RunSummary, summary_of
from lorasmith.reports.html_report import html_report, part
from lorasmith.ui.translator import Translator
from tests.reading.made_up import finished, started, stopped, watched
from tests.reports.page import parsed

NOW = datetime(2026, 5, 28, 20, 30)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def page_of(summary: RunSummary, root: Path, language: str = "en") -> str:
    return html_report(summary, Translator(language), root=root, now=NOW).decode()


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_stands_alone_in_every_language(summary: RunSummary, drawn: tuple[Path, Path], language: str) -> None:
    html = page_of(summary, drawn[0], language)
    page = parsed(html)
    assert page.loads() == []
    assert page.all("script") == page.all("link") == page.all("iframe") == []
    assert not re.search(r"url\(|@import|https?://", html)
    assert page.all("html") == [{"lang": language}]
    assert {"charset": "utf-8"} in page.all("meta")
    assert any("default-src 'none'" in one.get("content", "") for one in page.all("meta"))
    assert len(page.all("svg")) == 6
    # 2 originals, and 3 rows of control and four steps, and 3 pairs of sample and training picture
    assert len(page.all("img")) == 2 + 3 * 5 + 3 * 2
    assert all(one["alt"] for one in page.all("img"))
    assert len(html) < 1_000_000


def test_it_says_all_that_a_report_has_to_say(summary: RunSummary, drawn: tuple[Path, Path]) -> None:
    text = parsed(page_of(summary, drawn[0])).text
    for said in (
        "300 of 300 steps",
        "Use step 150",
        "last-best.safetensors",
        "LoRA off",
        "Over-training",
        "--rank",
        "64×64 (12)",
        "Starts of the training process: 1; interrupted: 0",
        "Abacus 2000",
        "e" * 64,
        "a sks leaf <number 0>, on white",
        "similarity 0.890; with the LoRA off 0.720",
    ):
        assert said in text, said


def test_light_dark_paper_and_phones_have_their_rules() -> None:
    assert "prefers-color-scheme: dark" in part("report.css")
    assert "@media print" in part("report.css")
    assert "max-width: 560px" in part("report.css")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_run_that_failed_at_once_has_a_page(tmp_path: Path, language: str) -> None:
    events = [started(tmp_path, 9), stopped(0, "failed", code="out_of_memory", fields={"step": 1}, exit_code=6)]
    page = parsed(page_of(summary_of(events, watched(1, status=6)), tmp_path, language))
    assert page.all("svg") == []
    assert Translator(language).say("chart.empty.not_stepped") in page.text
    assert Translator(language).error("out_of_memory", {"step": 1})[0] in page.text


def test_what_could_not_be_measured_is_said_in_its_chart(drawn: tuple[Path, Path]) -> None:
    missing = summary_of(finished(drawn[1], unavailable={"semantic": "no_clip_model"}), [])
    page = parsed(page_of(missing, drawn[0]))
    assert len(page.all("svg")) == 5
    assert page.text.count("No CLIP model was given with") == 2  # in the chart, and in the table


def test_pictures_that_are_gone_are_said_to_be(summary: RunSummary, tmp_path: Path) -> None:
    gone = replace(summary, samples=tuple(replace(one, example=None) for one in summary.samples))
    assert "no longer there" in parsed(page_of(gone, tmp_path)).text


def browsed(folder: Path, page: str, width: int, scheme: int) -> list[str]:
    """Chromium opens the page so wide; what it wrote into its console. `shot.png` and `net.json` lie in the folder."""
    (folder / "report.html").write_text(page, encoding="utf-8")
    framed = folder / "framed.html"  # a window has a least width, a frame has none
    style = "border:0;display:block"
    framed.write_text(
        f'<body style="margin:0"><iframe src="report.html" width="{width}" height="1500" style="{style}"></iframe>'
    )
    assert CHROMIUM is not None
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        "--v=0",
        f"--user-data-dir={folder / 'profile'}",
        f"--blink-settings=preferredColorScheme={scheme}",
        f"--window-size={max(width, 500)},1500",
        f"--screenshot={folder / 'shot.png'}",
        f"--log-net-log={folder / 'net.json'}",
    ]
    done = subprocess.run([CHROMIUM, *options, framed.as_uri()], capture_output=True, text=True, timeout=120)
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.special
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium in PATH")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", [0, 1], ids=["dark", "light"])
def test_a_browser_draws_it_without_a_word(
    summary: RunSummary, drawn: tuple[Path, Path], tmp_path: Path, width: int, scheme: int
) -> None:
    assert browsed(tmp_path, page_of(summary, drawn[0]), width, scheme) == []
    with Image.open(tmp_path / "shot.png") as picture:
        corner = picture.convert("RGB").getpixel((2, 2))
    assert corner == ((17, 21, 26) if scheme == 0 else (245, 246, 248))
    asked = re.findall(r'"url":"(https?://[^"]+)"', (tmp_path / "net.json").read_text(errors="replace"))
    assert [one for one in asked if not re.search(r"google|gstatic|gvt1|chromium|edgedl", one)] == []  # its own affairs


@pytest.mark.special
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium in PATH")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_hangs_over_the_edge(
    summary: RunSummary, drawn: tuple[Path, Path], tmp_path: Path, width: int, language: str
) -> None:
    page, policies = re.subn(
        r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page_of(summary, drawn[0], language)
    )
    assert policies == 1, "without it a script may run: that of this test"
    measuring = "<script>console.log(`WIDTH=${document.documentElement.scrollWidth} of ${innerWidth}`)</script>"
    (told,) = browsed(tmp_path, page.replace("</body>", measuring + "</body>"), width, 1)
    assert f"WIDTH={width} of {width}" in told
