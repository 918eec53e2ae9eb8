"""The mission's second test: after `python train_lora.py --new --steps 20` the reports are there, and each of them says
what could not be measured, and why.
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from lorasmith.messages import tr
from lorasmith.reports.making import make_reports
from lorasmith.ui import cli
from lorasmith.ui.translator import Translator
from tests.end_to_end.test_command_line import typed
from tests.end_to_end.workshop import Workshop
from tests.faults.forked_program import ForkedProgram
from tests.reports.html import parsed

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")
STEPS = 20
OPTIONS = ("--evaluate-every", "10", "--evaluate-examples", "1", "--hold-out", "2", "--lang", "en")
NO_CLIP = tr("en", "unavailable.no_clip_model")


def told_by_tensorboard(workshop: Workshop, tag: str) -> set[str]:
    """Its texts."""
    (file,) = workshop.run.tensorboard.glob("events.out.tfevents.*")
    values = [value for event in EventFileLoader(str(file)).Load() for value in event.summary.value if value.tag == tag]
    return {one.decode() for value in values for one in value.tensor.string_val}


def test_after_twenty_steps_every_place_has_them_and_says_why_one_measure_is_missing(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path(os.devnull).open("wb") as output:
        program = ForkedProgram(workshop, typed(workshop, "--new", "--steps", str(STEPS), *OPTIONS), output)
        assert program.wait(120) == 0
    logs = workshop.run.training_logs
    assert {re.sub(r"_\d{8}_\d{6}", "", one.name) for one in logs.iterdir()} == {
        "lora_training_curves.png", "lora_training_report.html", "lora_training_report.json", "training_loss_log.txt",
    }  # fmt: skip

    (report,) = logs.glob("*.json")
    found = json.loads(report.read_bytes())
    assert (found["stop_at"], found["done"], found["ending"]["reason"]) == (STEPS, STEPS, "reached")
    measures = [found["curves"]["control"], *found["curves"]["evaluations"]]
    assert [one["unavailable"] for one in measures] == [{"semantic": "no_clip_model"}] * len(measures)
    (page,) = logs.glob("*.html")
    assert NO_CLIP.replace("`", "") in parsed(page.read_text(encoding="utf-8")).text  # the page has <code> for it
    (picture,) = logs.glob("*.png")
    with Image.open(picture) as opened:
        assert opened.format == "PNG" and opened.size[0] > 1000

    rows = workshop.rows()
    assert [int(row["step"]) for row in rows] == list(range(1, STEPS + 1))
    measured = [row for row in rows if row["visual_loss"]]
    assert [int(row["step"]) for row in measured][-1] == STEPS
    assert {(row["semantic_loss"], row["unavailable"]) for row in measured} == {("N/A", f"semantic: {NO_CLIP}")}

    assert workshop.plotted("loss/current") == list(range(1, STEPS + 1))
    assert told_by_tensorboard(workshop, "unavailable/semantic") == {NO_CLIP}

    monkeypatch.chdir(workshop.folder)
    monkeypatch.setenv("COLUMNS", "200")
    capsys.readouterr()
    assert cli.main(["logs", "--lang", "en"], script="lorasmith") == 0
    assert NO_CLIP in " ".join(capsys.readouterr().out.split())


@pytest.mark.ci
def test_a_run_that_was_stopped_and_continued_three_times(workshop: Workshop) -> None:
    """Real ones: their ledgers, read by the report."""

    def reported() -> dict[str, Any]:
        files = make_reports(workshop.run, Translator("en"))
        assert files.json is not None and files.warnings == []
        found: dict[str, Any] = json.loads(files.json.read_bytes())
        return found

    workshop.new(9, stop_after=2)
    found = reported()
    assert (found["ending"]["reason"], found["done"], found["stop_at"]) == ("asked", 2, 9)
    for count in (1, 2, 3):
        workshop.go_on(count)
    found = reported()
    assert (found["ending"]["reason"], found["done"], found["stop_at"]) == ("reached", 8, 8)
    assert found["curves"]["step"] == list(range(1, 9))
    assert len(found["attempts"]) == 4
