from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorasmith.config import RunConfig
from lorasmith.errors import ExitCode
from lorasmith.messages import LANGUAGES
from lorasmith.reading.fold import RunFold
from lorasmith.reports.making import ReportFiles
from lorasmith.runs.events import (
    EVENTS,
    AdapterExported,
    BestChosen,
    CacheProgress,
    CheckpointSaved,
    DeviceChosen,
    Evaluated,
    GivenUp,
    LimitRaised,
    RunStopped,
    ShapesPrepared,
    StepRepeated,
    Warned,
    WorkerEnded,
    WorkerHung,
    WorkerRestarted,
    WorkerStarted,
)
from lorasmith.runs.layout import RunFolder
from lorasmith.runtime.preflight import Start
from lorasmith.ui.render import Display
from lorasmith.ui.screens import Compose, Mood
from lorasmith.ui.translator import Translator
from tests.ui.fake_engine import T0, run_started, step

AT: dict[str, Any] = {"attempt": 1, "time": T0}


class Paper:
    """A screen that is a list."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.moving: list[str] = []

    def line(self, text: str, mood: Mood = "") -> None:
        self.lines.append(text)

    def status(self, compose: Compose, share: float) -> None:
        self.moving.append(compose(None, True))

    def tick(self) -> None:
        """Nothing moves."""

    def close(self) -> None:
        """Nothing to take away."""


class Shown:
    def __init__(self, *, language: str = "en", stop_at: int = 3, verbose: bool = False, **start: Any) -> None:
        self.out, self.errors = Paper(), Paper()
        root = Path.cwd() / "lora_output"
        self.start = Start(RunFolder(root), RunConfig(), stop_at, True, 0, **start)
        self.display = Display(
            Translator(language), self.out, self.errors, start=self.start, command="lorasmith train", verbose=verbose
        )

    @property
    def text(self) -> str:
        return "\n".join(self.out.lines)


def device(reason: str = "asked", precision_reason: str = "asked") -> DeviceChosen:
    return DeviceChosen(
        **AT,
        device="cpu",
        name="n",
        reason=reason,
        precision="fp32",
        precision_reason=precision_reason,
        threads=2,
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_event_can_be_shown(language: str) -> None:
    shown = Shown(language=language)
    events = [
        device(),
        CacheProgress(**AT, done=0, total=0),
        ShapesPrepared(**AT, execution="graph", done=0, total=0),
        ShapesPrepared(**AT, execution="compiled", done=1, total=2),
        run_started(3),
        step(1),
        StepRepeated(**AT, step=2, reason="out_of_memory", micro_split=2),
        CheckpointSaved(**AT, step=1, path="s", sha256="", seconds=1.0),
        AdapterExported(**AT, step=1, path="x.safetensors", sha256=""),
        Warned(**AT, code="prodigy_lr", fields={"lr": 1}),
        RunStopped(**AT, step=1, reason="reached"),
        WorkerEnded(**AT, status=0),
        hung(),
        WorkerRestarted(**AT, after="crashed", reason="x", step=1, in_vain=1),
        LimitRaised(**AT, spent_seconds=1.0, limit_seconds=2.0, seconds_per_step=3.0),
        GivenUp(**AT, code="stuck"),
        Evaluated(**AT, step=1, is_control=False, visual=0.5, unavailable={"semantic": "no_clip_model"}),
        BestChosen(**AT, step=1, loss=0.1, standard_error=0.01, path="last-best.safetensors", sha256=""),
    ]
    for event in events:
        shown.display.show(event)
    assert {type(event).__name__ for event in events} | {"WorkerStarted"} == set(EVENTS)
    assert len(shown.out.lines) == 13


REASONS = ("asked", "kept", "first_available", "no_accelerator", "driver_unusable")


@pytest.mark.parametrize("reason", [*REASONS, "torch_without_cuda", "card_without_kernels"])
def test_the_first_line_names_the_device_and_why(reason: str) -> None:
    shown = Shown(warnings=(("prodigy_lr", {"lr": 0.1}),))
    shown.display.show(device(reason))
    assert shown.out.lines[0].startswith("Device: cpu (n), ")
    assert ("pip install" in shown.out.lines[0]) is (reason not in REASONS)
    assert shown.out.lines[2].startswith("Warning: This optimizer")  # what was noticed before comes below


@pytest.mark.parametrize(
    "reason",
    ["asked", "kept", "gpu_bf16_units", "older_gpu", "gpu_fp16_nan", "cpu_bf16_units", "no_bf16_units", "small_model"],
)
def test_every_reason_for_a_precision_has_words(reason: str) -> None:
    Shown().display.show(device(precision_reason=reason))


def test_the_maximum_is_said_when_the_last_step_is_completed_and_not_before() -> None:
    shown = Shown()
    fold = RunFold()
    for event in (run_started(3), step(1, loss=0.5), step(2, loss=0.3), step(3, loss=0.4)):
        assert "maximum" not in shown.text
        fold.add(event)
        shown.display.show(event, fold)
    assert shown.out.lines[-1] == "Reached the maximum of 3 steps"
    assert "average 0.4000" in shown.out.moving[-1]


def test_a_start_says_where_it_stands_and_what_has_changed() -> None:
    shown = Shown()
    event = replace(run_started(9, resumed_from=4), changed={"lr": [0.1, 0.2]}, held_out=["a"])
    shown.display.show(event)
    assert shown.out.lines == [
        "Continuing at step 4: 5 more, to step 9, pictures: 4, folder: `lora_output`",
        "Pictures held out, never trained on: 1",
        "Changed: `--lr` from 0.1 to 0.2",
    ]


def test_a_start_that_owes_its_end_alone_says_so() -> None:
    shown = Shown()
    shown.display.show(run_started(9, resumed_from=9))
    (line,) = shown.out.lines
    assert line.startswith("All 9 steps are trained; completing the interrupted export")


def test_a_batch_of_one_is_not_split_but_computed_twice() -> None:
    (shown := Shown()).display.show(StepRepeated(**AT, step=1, reason="out_of_memory", gradient_checkpointing=True))
    assert "computed twice" in shown.out.lines[0] and "split" not in shown.out.lines[0]


def hung(**fields: Any) -> WorkerHung:
    facts = {"step": 4, "phase": "step", "silent_seconds": 300.4, "limit_seconds": 300.0}
    return WorkerHung(**{**AT, **facts, "stack": "File forward.py", "is_stopped": False, **fields})


def test_a_hang_is_said_and_what_follows() -> None:
    shown = Shown(stop_at=9)
    shown.display.show(run_started(9))
    shown.out.lines.clear()
    shown.display.show(hung())
    shown.display.show(hung(is_stopped=True, stack=""))
    shown.display.show(WorkerRestarted(**AT, after="hung", reason="", step=4, in_vain=2))
    shown.display.show(WorkerRestarted(**AT, after="crashed", reason="KeyError: 'x'", step=None, in_vain=3))
    shown.display.show(LimitRaised(**AT, spent_seconds=6000.2, limit_seconds=18000.0, seconds_per_step=40.0))
    assert shown.out.lines == [
        "No sign of life for 300 s after step 4 (phase: computing a step, limit 300 s): the training"
        " process is being ended",
        "The training process was paused by a signal: no sign of life for 300 s after step 4 (phase: computing a step,"
        " limit 300 s); it is being ended",
        "Restarted from step 4; restarts without a new step: 2 of 3",
        "The training process failed: KeyError: 'x'",
        "Restarted from the beginning; restarts without a new step: 3 of 3",
        "Slower than allowed, but making progress (40.00 s/step): after 6000 s the limit of the whole run is raised to"
        " 18000 s",
    ]
    assert shown.errors.lines == []  # the stack is in the supervisor's log


@pytest.mark.parametrize(("verbose", "begun"), [(True, True), (False, False)])
def test_a_stack_is_shown_where_it_is_wanted_or_kept_nowhere(verbose: bool, begun: bool) -> None:
    shown = Shown(verbose=verbose)
    if begun:
        shown.display.show(run_started(3))
    shown.display.show(hung())
    assert shown.errors.lines == ["File forward.py"]


@pytest.mark.parametrize(
    ("code", "fields", "exit_code"),
    [
        ("stuck", {"seconds": 300, "step": 4, "phase": "step", "restarts": 3}, ExitCode.STUCK),
        ("run_limit", {"seconds": 6000, "since": 400, "step": 4}, ExitCode.STUCK),
        ("worker_unkillable", {"pid": 77}, ExitCode.STUCK),
        ("crashed_again", {"restarts": 3, "reason": "KeyError"}, ExitCode.CRASHED),
        ("no_usable_state", {"folder": "f"}, ExitCode.NO_STATE),
    ],
)
def test_giving_up_says_why_and_how_to_go_on(code: str, fields: dict[str, Any], exit_code: ExitCode) -> None:
    shown = Shown()
    shown.display.show(run_started(3))
    shown.display.show(RunStopped(**AT, step=1, reason="failed", code="crashed", exit_code=70))
    shown.display.show(GivenUp(**AT, code=code, fields=fields, exit_code=int(exit_code)))
    shown.display.finish(exit_code, Path.cwd() / "lora_output" / "state_x")
    assert shown.errors.lines[:2] == Translator("en").error(code, fields)
    assert shown.errors.lines[1].startswith("hint: ")
    assert ("lora_output/state_x" in shown.text) is (exit_code != ExitCode.NO_STATE)


def test_what_a_worker_printed_that_died_without_a_word_is_shown() -> None:
    shown = Shown()
    shown.display.show(run_started(3))
    output = "\n".join(f"line {number}" for number in range(50))
    shown.display.show(WorkerEnded(**AT, status=-11, output=output))
    shown.display.finish(ExitCode.CRASHED, None)
    assert "exit status -11" in shown.errors.lines[0]
    assert shown.errors.lines[-1].startswith("line 30") and shown.errors.lines[-1].endswith("line 49")


def test_the_failure_of_an_earlier_attempt_is_not_this_one_s() -> None:
    shown = Shown()
    shown.display.show(run_started(3))
    shown.display.show(
        RunStopped(**AT, step=1, reason="failed", code="crashed", fields={"reason": "old"}, exit_code=70)
    )
    shown.display.show(WorkerStarted(**AT, worker_pid=1, supervisor_pid=2))
    shown.display.show(WorkerEnded(**AT, status=-9))
    shown.display.finish(ExitCode.CRASHED, None)
    assert "exit status -9" in shown.errors.lines[0]


def test_the_target_is_what_the_run_says_it_is() -> None:
    """It was planned before the folder was held: meanwhile the run may have moved on."""
    shown = Shown(stop_at=3)
    shown.display.show(run_started(5, resumed_from=3))
    shown.display.show(step(3))
    assert "maximum" not in shown.text
    shown.display.show(step(5))
    assert shown.out.lines[-1] == "Reached the maximum of 5 steps"


def test_at_the_end_it_says_where_the_lora_is_and_what_can_be_done() -> None:
    shown = Shown()
    shown.display.show(run_started(3))
    shown.display.show(AdapterExported(**AT, step=3, path="last_2.safetensors", sha256=""))
    shown.display.finish(ExitCode.FINISHED, None)
    assert "The LoRA is in `lora_output/last_2.safetensors`" in shown.text  # not where it was meant to be
    assert "lorasmith train --continue --steps 200" in shown.text
    assert "tensorboard --logdir lora_output/logs" in shown.text


def failed(shown: Shown, code: str, exit_code: ExitCode, **fields: Any) -> None:
    traceback = "Traceback: line 1\n"
    shown.display.show(
        RunStopped(**AT, step=2, reason="failed", code=code, fields=fields, exit_code=exit_code, traceback=traceback)
    )
    shown.display.finish(exit_code, Path.cwd() / "lora_output" / "state_x")


def test_memory_that_ran_out_is_gone_on_from_as_it_is() -> None:
    shown = Shown()
    shown.display.show(run_started(3))
    failed(shown, "out_of_memory", ExitCode.NO_RESOURCE, step=2)
    assert "Continue: `lorasmith train --continue`" in shown.text


def test_an_end_before_the_first_step_says_what_was_changed() -> None:
    untouched, placed = Shown(), Shown()
    untouched.display.finish(ExitCode.NO_RESOURCE, None)
    assert "nothing was changed" in untouched.text
    placed.display.finish(ExitCode.NO_RESOURCE, None, has_placed=True)
    assert "nothing was changed" not in placed.text and "lora_output_backup" in placed.text


def test_a_failure_says_why_and_how_to_go_on() -> None:
    shown = Shown()
    shown.display.show(run_started(3))
    failed(shown, "non_finite", ExitCode.NON_FINITE, step=2, pictures=["a.png"], timesteps=[7])
    assert shown.errors.lines[0].startswith("Error: The loss or gradient of step 2")
    assert shown.errors.lines[1].startswith("hint: ")
    assert "Go on: " not in shown.text  # it would end in the same way: the hint says what to change
    assert "lora_output/state_x" in shown.text
    assert "Traceback" not in shown.text


def test_a_failure_before_the_first_step_says_that_nothing_was_changed() -> None:
    shown = Shown()
    failed(shown, "no_best_state", ExitCode.BAD_INPUT)
    assert "nothing was changed" in shown.text
    assert "Go on" not in shown.text
    assert len(shown.errors.lines) == 2


def test_a_crash_that_no_ledger_keeps_shows_its_traceback() -> None:
    shown = Shown()
    failed(shown, "crashed", ExitCode.CRASHED, reason="ValueError: x")
    assert shown.errors.lines[-1] == "Traceback: line 1"
    begun = Shown()
    begun.display.show(run_started(3))
    failed(begun, "crashed", ExitCode.CRASHED, reason="ValueError: x")
    assert "Traceback: line 1" not in begun.errors.lines
    assert "ledger.jsonl" in begun.text
    verbose = Shown(verbose=True)
    verbose.display.show(run_started(3))
    failed(verbose, "disk_full", ExitCode.NO_RESOURCE, path="x")
    assert "Traceback: line 1" in verbose.errors.lines


def test_a_worker_that_died_without_a_word_is_named() -> None:
    shown = Shown()
    shown.display.show(run_started(3))
    shown.display.show(WorkerEnded(**AT, status=-9))
    shown.display.finish(ExitCode.CRASHED, None)
    assert "-9" in shown.errors.lines[0]


def test_a_stop_says_how_far_it_came() -> None:
    shown = Shown(stop_at=9)
    for event in (run_started(9), step(1), step(2), RunStopped(**AT, step=2, reason="asked", exit_code=5)):
        shown.display.show(event)
    shown.display.finish(ExitCode.STOPPED, Path("/elsewhere/state_x"))
    assert shown.out.lines[1:] == [
        "Stopped on request after step 2 of 9",
        "Newest good state: `/elsewhere/state_x`",
        "Continue: `lorasmith train --continue`",
    ]


def test_what_was_measured_is_told_and_what_could_not_be_is_na() -> None:
    shown = Shown()
    missing = {"semantic": "no_clip_model"}
    validation = {"loss": 0.1234, "standard_error": 0.01}
    for is_control in (True, False):
        event = Evaluated(**AT, step=2, is_control=is_control, visual=0.5, unavailable=missing, validation=validation)
        shown.display.show(event)
    numbers = "Visual 0.500 · Semantic N/A · Validation 0.123"
    assert shown.out.lines == [f"Measured with the LoRA off: {numbers}", f"Measured at step 2: {numbers}"]


def test_the_reports_are_named_and_what_could_not_be_made_is_told() -> None:
    shown = Shown()
    page = Path.cwd() / "training_logs" / "x.html"
    missing = {"path": "x.png", "module": "matplotlib", "reason": "gone", "command": "pip install matplotlib"}
    warnings = [("report_failed", {"path": "x.json", "reason": "full"}), ("report_without_library", missing)]
    shown.display.reported(ReportFiles(html=page, warnings=warnings))
    assert shown.out.lines[0] == "Warning: Cannot write the report `x.json`: full"
    assert "pip install matplotlib" in shown.text
    assert shown.out.lines[-1] == "Report: `training_logs/x.html`"


@pytest.mark.parametrize("exit_code", [ExitCode.BAD_INPUT, ExitCode.NO_RESOURCE])
def test_a_worker_that_could_not_say_why_met_a_full_disk(exit_code: ExitCode) -> None:
    """Not the traceback of how it could not say so."""
    shown = Shown()
    shown.display.show(WorkerEnded(**AT, status=int(exit_code), output="Traceback ..."))
    shown.display.finish(exit_code, None)
    assert "The disk is full" in shown.errors.lines[0]
    assert not any("Traceback" in line for line in [*shown.out.lines, *shown.errors.lines])


@pytest.mark.parametrize("verbose", [False, True])
def test_with_verbose_the_line_has_pictures_and_operations_in_a_second(verbose: bool) -> None:
    shown, fold = Shown(verbose=verbose), RunFold()
    chosen = replace(device(), peak_flops=8e12)
    for event in (chosen, run_started(3), replace(step(1), seconds=2.0, example_ids=[1, 2, 3], flop=4e12)):
        fold.add(event)
        shown.display.show(event, fold)
    assert ("1.5 pictures/s, 2 TFLOP/s, 25% of the peak" in shown.out.moving[-1]) is verbose


@pytest.mark.parametrize(("family", "is_for_webui"), [("sdxl", True), ("", True), ("krea2", False)])
def test_at_the_end_it_names_the_programs_that_read_the_file(family: str, is_for_webui: bool) -> None:
    shown = Shown()
    config = RunConfig().with_values({("model", "family"): family, ("dataset", "trigger_word"): "zorb"})
    start = replace(shown.start, config=config)
    display = Display(Translator("en"), shown.out, shown.errors, start=start, command="train", verbose=False)
    display.finish(ExitCode.FINISHED, None)
    assert "models/loras" in shown.text
    assert ("models/Lora`" in shown.text) == is_for_webui
    assert "`zorb`" in shown.text
