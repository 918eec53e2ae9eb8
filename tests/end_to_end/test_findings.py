"""What is said of a dataset: the same list in the plan, on the screen, in the ledger and in the report, each once."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorasmith.errors import ExitCode
from lorasmith.messages import LANGUAGES
from lorasmith.reading.reader import read_summary
from lorasmith.runs.events import DeviceChosen, Warned
from lorasmith.runs.ledger import read_events
from lorasmith.ui.render import Display
from lorasmith.ui.translator import Translator
from tests.data.drawing import put_picture
from tests.end_to_end.trial import tried
from tests.end_to_end.workshop import Workshop
from tests.ui.test_render import Paper

NAMES_ALONE = {
    *("plugin_missing", "kind_unreadable", "pictures_too_deep", "folder_meant", "folder_no_repeats", "folder_reversed"),
    *("folder_unused", "captions_elsewhere", "captions_of_other_kind", "captions_alone", "captions_second"),
    *("captions_shared", "picture_without_extension"),
}


@pytest.fixture
def faulty(workshop: Workshop) -> Workshop:
    """A dataset with a fault of every kind."""
    root = workshop.folder / "lora_train_set"
    pictures = ["5_x/deep/a.png", "old/b.png", "x_5/c.png", "0_x/d.png", "img/3_x/e.png", "twin.png", "twin.jpg"]
    pictures += ["second.png", "lacks.png", "other.png", "long.png", "empty.png", "lines.png", "5_x/f.png"]
    for number, name in enumerate(pictures):
        put_picture(root / name, 64, 64, number)
    words = {
        "twin.txt": "two",
        "second.txt": "one",
        "second.caption": "two",
        "captions/lacks.txt": "x",
        "alone.txt": "x",
    }
    words |= {"other.json": "{}", "long.txt": "tag, " * 80, "empty.txt": "", "lines.txt": "a\nb", "a.cr2": "x"}
    words |= {"5_x/f.txt": "f", "b.jxl": "x"}
    for name, text in words.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    (root / "IMG").write_bytes((root / "twin.png").read_bytes())
    return workshop


def without_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorasmith.data.names.find_spec", lambda _: None)


def test_one_list_everywhere(faulty: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    without_plugins(monkeypatch)
    start = faulty.start_new(1)
    listed = [(one.code, one.fields) for one in tried(start).findings]
    codes = [code for code, _ in listed]
    assert set(codes) > NAMES_ALONE
    assert {"captions_cut", "captions_empty", "caption_more_lines", "no_words"} < set(codes)
    assert len(codes) == len(set(codes))
    assert all(len(fields.get("files", [])) <= 3 for _, fields in listed)

    outcome = faulty.watch(start)
    assert outcome.exit_code == ExitCode.FINISHED
    in_ledger = [(one.code, one.fields) for one in read_events(faulty.run.ledger) if isinstance(one, Warned)]
    assert in_ledger == listed
    faulty.go_on(1)
    assert [(one.code, one.fields) for one in read_summary(faulty.run).warnings] == listed


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_is_shown_once(faulty: Workshop, monkeypatch: pytest.MonkeyPatch, language: str) -> None:
    """By the parent at once, by the worker again, and once more by the worker that takes its place."""
    without_plugins(monkeypatch)
    start, paper, words = faulty.start_new(1), Paper(), Translator(language)
    display = Display(words, paper, Paper(), start=start, command="lorasmith train", verbose=False)
    device = DeviceChosen(
        attempt=1,
        time=0.0,
        device="cpu",
        name="",
        reason="asked",
        precision="fp32",
        precision_reason="asked",
        threads=1,
    )
    said = [Warned(attempt=1, time=0.0, code=code, fields=fields) for code, fields in start.warnings]
    for event in [device, *said, device, *said]:
        display.show(event)
    for one in said:
        (first, *rest) = words.finding(one.code, one.fields)
        assert paper.lines.count(first) == 1
        assert set(rest) <= set(paper.lines)


def test_only_what_cannot_be_used_is_named_by_the_refusal(tmp_path: Path) -> None:
    lines = Translator("en").error(
        "dataset_empty",
        {
            "folder": "x",
            "types": ".png",
            "findings": [{"code": "kind_unreadable", "fields": {"count": 1, "files": ["a.cr2"], "kinds": ".cr2"}}],
        },
    )
    assert lines[:3] == [
        "Error: No pictures found in `x`",
        "Note: files of a type that no picture is read from, not used: 1 (.cr2)",
        "  a.cr2",
    ]
