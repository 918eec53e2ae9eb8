from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from PIL import Image

from lorasmith.messages import LANGUAGES
from lorasmith.reading.attempts import Ending, Happening
from lorasmith.reading.metrics import Trend
from lorasmith.reading.pictures import Picture
from lorasmith.reading.summary import RunSummary, summary_of
from lorasmith.reports.charts import four_charts, more_charts
from lorasmith.reports.drawing import COLOURS, draw_svg
from lorasmith.reports.page import (
    HERE,
    MAX_PICTURES,
    MAX_SAMPLE_ROWS,
    MAX_SAMPLE_STEPS,
    _pace_facts,
    prose,
    render_page,
    sample_steps,
    settings_of,
)
from lorasmith.runs.events import LimitRaised, Warned, WorkerEnded, WorkerHung, WorkerRestarted
from lorasmith.ui.translator import Translator
from tests.reading.made_up import T0, evaluated, finished, started, stepped, stopped, watched
from tests.reports.html import Page, parsed

NOW = datetime(2026, 5, 28, 20, 30)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NOWHERE = Path("nowhere")
SAY = Translator("en").say
STATUS = -123_456_789  # paths are on the page too, and pytest numbers its folders: pytest-9
HAPPENED = [
    WorkerHung(
        attempt=1, time=T0, step=5, phase="step", silent_seconds=61.4, limit_seconds=60.0, stack="A\nB",
        is_stopped=False,
    ),
    WorkerRestarted(attempt=1, time=T0, after="hung", reason="", step=4, in_vain=1),
    LimitRaised(attempt=1, time=T0, spent_seconds=100.0, limit_seconds=200.0, seconds_per_step=9.0),
]  # fmt: skip


def html_of(summary: RunSummary, root: Path, language: str = "en") -> str:
    """The page with its charts."""
    charts = (*four_charts(summary), *more_charts(summary))
    drawn = [(chart, "" if chart.is_empty else draw_svg(chart, language)) for chart in charts]
    return render_page(summary, Translator(language), root=root, now=NOW, charts=drawn).decode()


def page_of(summary: RunSummary, root: Path = NOWHERE, language: str = "en", **changes: Any) -> Page:
    """The page without charts; of a summary with these changes."""
    changed = replace(summary, **changes)
    return parsed(render_page(changed, Translator(language), root=root, now=NOW, charts=[]).decode())


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_stands_alone_in_every_language(summary: RunSummary, drawn: tuple[Path, Path], language: str) -> None:
    html = html_of(summary, drawn[0], language)
    page = parsed(html)
    assert page.loads() == []
    assert page.all("script") == page.all("link") == page.all("iframe") == []
    assert not re.search(r"url\((?!#)|@import|https?://", html)
    assert page.all("html") == [{"lang": language}]
    assert {"charset": "utf-8"} in page.all("meta")
    assert any("default-src 'none'" in one.get("content", "") for one in page.all("meta"))
    assert len(page.all("svg")) == 6
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names)), "what one chart defines is no other chart's"
    assert {*re.findall(r'href="#(\w+)"', html), *re.findall(r"url\(#(\w+)\)", html)} == set(names)
    # 2 originals, and 3 rows of baseline and four steps, and 3 pairs of sample and training picture
    assert len(page.all("img")) == 2 + 3 * 5 + 3 * 2
    assert all(one["alt"] for one in page.all("img"))
    assert len(html) < 1_000_000


def test_it_says_all_that_a_report_has_to_say(summary: RunSummary, drawn: tuple[Path, Path]) -> None:
    text = page_of(summary, drawn[0]).text
    for said in (
        "300 of 300 steps",
        "Use step 150",
        "last-best.safetensors",
        "0.149 ± 0.013; at the last step 300: 0.158 ± 0.013; difference: 0.009 ± ",
        "Visual 0.472 0.345 0.345 (step 300) 0.404 0.600 57 % falling",
        "Validation 0.160 0.158 0.149 (step 150)",
        "LoRA off",
        "similarity 0.890; with the LoRA off 0.720",
        "Over-training",
        "--rank",
        "64×64 (12)",
        "10_leaf/leaf_00.png 10 64×64",
        "10_leaf/leaf_15.png – – held out",
        "Starts of the training process: 1; interrupted: 0",
        "A step, median 0.41 s",
        "torch 2.13.0",
        "e" * 64,
    ):
        assert said in text, said


def test_what_a_person_typed_is_never_markup(summary: RunSummary, drawn: tuple[Path, Path]) -> None:
    page = page_of(summary, drawn[0])
    assert "a sks leaf <number 0>, on white" in page.text and "two sks leaves & a stone" in page.text
    assert prose("do `a<b` now") == "do <code>a&lt;b</code> now"
    assert prose("one ` < alone") == "one ` &lt; alone"


def test_a_name_that_no_file_can_hold_is_shown_as_well_as_can_be(tmp_path: Path) -> None:
    odd = replace(started(tmp_path, 9), held_out=["\udcff.png"])
    assert "?.png" in page_of(summary_of([odd], [])).text


def test_light_dark_paper_and_phones_have_their_rules_and_the_colours_are_those_of_the_charts() -> None:
    css = (HERE / "page.css").read_text(encoding="utf-8")
    for rule in ("prefers-color-scheme: dark", "@media print", "max-width: 560px"):
        assert rule in css
    light, dark, *_ = [dict(re.findall(r"--(\w+): (#\w+)", block)) for block in css.split(":root {")[1:]]
    assert {name: light[name] for name in COLOURS} == COLOURS
    assert COLOURS.keys() <= dark.keys()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_run_that_failed_at_once_has_a_page(tmp_path: Path, language: str) -> None:
    events = [started(tmp_path, 9), stopped(0, "failed", code="out_of_memory", fields={"step": 1}, exit_code=6)]
    page = parsed(html_of(summary_of(events, watched(1, status=6)), tmp_path, language))
    assert page.all("svg") == []
    assert Translator(language).say("chart.empty.not_stepped") in page.text
    assert Translator(language).error("out_of_memory", {"step": 1})[0] in page.text


def test_what_could_not_be_measured_is_said_in_its_chart(drawn: tuple[Path, Path]) -> None:
    missing = summary_of(finished(drawn[1], unavailable={"semantic": "no_clip_model"}), [])
    page = parsed(html_of(missing, drawn[0]))
    assert len(page.all("svg")) == 5
    assert page.text.count(SAY("unavailable.no_clip_model").replace("`", "")) == 2  # in the chart, and in the table


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_code_has_words(summary: RunSummary, language: str) -> None:
    say = Translator(language).say
    uses = ("nothing_exported", "exports_gone", "not_evaluated", "trained_pictures", "best", "best_is_last",
            "not_distinguishable", "error_unknown")  # fmt: skip
    for reason in uses:
        text = page_of(summary, language=language, use=replace(summary.use, reason=reason)).text
        assert say(f"use.{reason}", step=150, last_step=300) in text
    for against in ("better", "worse", "undecided"):
        text = page_of(summary, language=language, use=replace(summary.use, against_baseline=against)).text
        assert say(f"against_baseline.{against}", baseline="0.182") in text
    for reason in ("reached", "asked", "failed", "died", "unknown"):
        text = page_of(summary, language=language, ending=Ending(reason, status=STATUS)).text
        assert say(f"ending.{reason}") in text
        assert (str(STATUS) in text) is (reason == "died")
    for verdict in ("seen", "within_error", "not_seen", "too_few", "trained_pictures", "not_evaluated"):
        over = replace(summary.over_training, verdict=verdict, rise=0.25, error=0.5, fall=0.75)
        words = say(f"over_training.{verdict}", best_step=150, last_step=300, rise="0.25", error="0.5", fall="0.75")
        assert words in page_of(summary, language=language, over_training=over).text
    for verdict in ("copies", "none", "not_measured"):
        copied = replace(summary.memorisation, verdict=verdict)
        assert say(f"memorisation.{verdict}") in page_of(summary, language=language, memorisation=copied).text
    for trend in get_args(Trend):
        losses = {**summary.losses, "total": replace(summary.losses["total"], trend=trend)}
        assert page_of(summary, language=language, losses=losses).text.count(say(f"report.trend.{trend}")) >= 2


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_the_supervisor_recorded_is_shown_with_its_stack(tmp_path: Path, language: str) -> None:
    ended = WorkerEnded(attempt=1, time=T0 + 9, status=-9, output="last\nwords")
    events = [started(tmp_path, 9), *stepped(range(1, 6))]
    page = page_of(summary_of(events, [*watched(1, status=None), *HAPPENED, ended]), language=language)
    assert len(page.all("pre")) == 2
    for said in ("61", "A B", Translator(language).say("report.attempt.output", number=1) + " last words", "(-9)"):
        assert said in page.text
    assert "None" not in page.text


def test_what_another_version_recorded_is_shown_as_it_is(summary: RunSummary) -> None:
    attempt = replace(summary.attempts[0], happenings=(Happening("Abducted", T0, {"by": "aliens", "stack": "A\nB"}),))
    assert "Abducted by=aliens A B" in page_of(summary, attempts=(attempt,)).text
    failed = page_of(summary, ending=Ending("failed", "of_the_future", {"x": 1}))
    assert "of_the_future x: 1" in failed.text


def test_settings_that_differ_from_the_defaults_come_first(summary: RunSummary) -> None:
    chosen, resolved, defaults = settings_of(summary)
    assert {name for name, _ in chosen} == {"--base-model", "--data", "--hold-out", "--rank", "--save-every"}
    assert (resolved, ("--batch-size", "1") in defaults) == ([], True), "by a version that did not record who chose"
    old = replace(summary, settings={"adapter": {"rank": 4}, "unknown": {"x": 1}})
    assert settings_of(old) == ([("--rank", "4")], [], [])
    assert SAY("report.settings.none") in page_of(summary, settings={}).text


def test_settings_that_a_start_resolved_are_shown_apart(summary: RunSummary) -> None:
    settings = {"given": ["rank"], "adapter": {"rank": 4}, "model": {"prediction": "flow"}}
    assert settings_of(replace(summary, settings=settings)) == ([("--rank", "4")], [("--prediction", "flow")], [])
    text = page_of(summary, settings=settings).text
    assert text.index(SAY("report.settings.given")) < text.index(SAY("report.settings.resolved"))


def test_what_is_too_much_for_a_page_is_counted(summary: RunSummary) -> None:
    pictures = tuple(Picture(f"x/{number}.png", 1) for number in range(MAX_PICTURES + 7))
    assert SAY("report.data.left_out", count=7) in page_of(summary, data=replace(summary.data, pictures=pictures)).text
    page = page_of(summary, samples=summary.samples * 5)
    assert SAY("report.samples_left_out", count=15 - MAX_SAMPLE_ROWS) in page.text
    assert len(page.all("q")) == MAX_SAMPLE_ROWS


def test_files_with_their_hashes_and_what_is_gone(summary: RunSummary) -> None:
    text = page_of(summary, files=(replace(summary.files[0], is_there=False),)).text
    assert SAY("report.file.gone") in text and "e" * 64 in text
    assert SAY("report.file.none") in page_of(summary, files=()).text


def test_warnings_and_sections_that_have_nothing_to_show(summary: RunSummary) -> None:
    assert SAY("report.warnings") not in page_of(summary).text
    warned = (Warned(attempt=1, time=T0, code="prodigy_lr", fields={"lr": 0.1}),)
    assert "This optimizer finds the learning rate itself" in page_of(summary, warnings=warned).text
    nothing = page_of(summary_of([], [])).text
    assert SAY("report.speed.title") not in nothing and SAY("report.environment") not in nothing
    assert SAY("report.no_samples") in nothing


def test_each_row_of_samples_goes_from_the_original_to_the_last_step(
    summary: RunSummary, drawn: tuple[Path, Path]
) -> None:
    labels = [one["alt"] for one in page_of(summary, drawn[0]).all("img")]
    assert labels[:6] == ["original", "LoRA off", "step 75", "step 150 ✓", "step 225", "step 300"]
    assert labels[12:17] == ["LoRA off", "step 75", "step 150 ✓", "step 225", "step 300"]  # of a prompt of its own
    assert SAY("report.picture_gone") in page_of(summary, NOWHERE).text


def test_of_many_steps_some_are_shown_with_the_first_the_last_and_the_best(tmp_path: Path) -> None:
    events = [started(tmp_path, 40), *stepped(range(1, 41)), *(evaluated(step, tmp_path) for step in range(1, 41))]
    found = summary_of(events, [])
    steps = sample_steps(replace(found, use=replace(found.use, step=18, loss=0.1)))
    assert len(steps) == MAX_SAMPLE_STEPS
    assert (steps[0], steps[-1]) == (1, 40) and 18 in steps


def test_a_sample_drawn_from_its_nearest_picture_is_marked(summary: RunSummary, drawn: tuple[Path, Path]) -> None:
    own = replace(summary.memorisation.samples[0], is_from_itself=True, baseline_similarity=None)
    copied = replace(summary.memorisation, samples=(own,))
    assert (
        SAY("report.similarity", similarity="0.890") + " " + SAY("report.from_itself")
        in page_of(summary, drawn[0], memorisation=copied).text
    )


def test_neither_drawing_library_is_loaded_before_something_is_drawn() -> None:
    drawing = {"PIL.Image", "matplotlib", "jinja2", "torch"}
    script = f"import lorasmith.ui.watching, lorasmith.ui.report, sys; sys.exit(bool({drawing} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


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
    assert browsed(tmp_path, html_of(summary, drawn[0]), width, scheme) == []
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
        r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html_of(summary, drawn[0], language)
    )
    assert policies == 1, "without it a script may run: that of this test"
    measuring = "<script>console.log(`WIDTH=${document.documentElement.scrollWidth} of ${innerWidth}`)</script>"
    (told,) = browsed(tmp_path, page.replace("</body>", measuring + "</body>"), width, 1)
    assert f"WIDTH={width} of {width}" in told


def test_the_speed_has_what_the_ledger_knows_and_no_more() -> None:
    steps = [
        replace(event, seconds=2.0, example_ids=[1, 2], flop=6e12, waited_seconds=0.5, recordings=1)
        for event in stepped(range(1, 5))
    ]
    speed = summary_of([started(Path("x"), 4), *steps], []).speed
    assert (speed.pictures_per_second, speed.flops, speed.share_of_peak) == (1.0, 3e12, None)
    assert (speed.waited_seconds, speed.recordings) == (2.0, 4)
    facts = _pace_facts(speed, Translator("en"))
    assert facts == {
        "pictures": "1 pictures/s", "flops": "3 TFLOP/s", "waiting": "2.00 s (25 %)", "recordings": "4",
    }  # fmt: skip
    assert _pace_facts(replace(speed, flops=None, waited_seconds=0.0, recordings=0), Translator("en")).keys() == {
        "pictures"
    }


def test_noise_levels_are_a_plot() -> None:
    summary = replace(summary_of([], []), noise_levels=(0.25, 0.75))
    page = page_of(summary)
    assert "Noise levels" in page.text and "0.50–1.00: 75.0%" in page.text
    assert "Noise levels" not in page_of(summary_of([], [])).text
