"""Which files a plan names. (That a run writes just these: tests/end_to_end/test_plan.py.)"""

from pathlib import Path
from typing import Any

import pytest

from lorasmith.config import RunConfig
from lorasmith.planning import files as module
from lorasmith.planning.files import cadence_of
from lorasmith.runs.layout import RunFolder
from lorasmith.runtime.start import Start

EVERY, EVALUATE = ("cadence", "save_every"), ("evaluation", "every")


def start(
    root: Path, stop_at: int, values: dict[tuple[str, str], Any] | None = None, *, first: int | None = None
) -> Start:
    config = RunConfig().with_values({("dataset", "folder"): str(root / "data"), **(values or {})})
    return Start(RunFolder(root / "lora_output"), config, stop_at, is_new=first is None, first_step=first or 0)


def files(one: Start, *, samples: int = 4, by_clock: bool = False) -> dict[str, tuple[int, int]]:
    found = module.planned_files(one, samples=samples, encoded=((1, 1), (0, 2)), by_clock=by_clock)
    base = one.run.root.parent
    return {Path(file.path).relative_to(base).as_posix(): (file.least, file.most) for file in found}


def test_the_cache_is_where_the_run_will_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(tmp_path / "user"))
    assert ".lorasmith_cache/latents/*.safetensors" in files(start(tmp_path, 10))
    (tmp_path / ".lorasmith_cache").touch()  # a file where the folder would be
    found = files(start(tmp_path, 10))
    assert "user/lorasmith/latents/*.safetensors" in found
    assert not any(name.startswith(".lorasmith_cache") for name in found)


@pytest.mark.parametrize(
    ("values", "first", "saves", "exports", "evaluations"),
    [
        ({EVERY: 4}, None, (0, 4, 8, 10), (4, 8), (4, 8, 10)),
        ({EVERY: 5}, None, (0, 5, 10), (5, 10), (5, 10)),
        ({EVERY: 0}, None, (0, 10), (), ()),
        ({EVERY: 100}, None, (0, 10), (), (10,)),
        ({EVERY: 4, EVALUATE: 0}, None, (0, 4, 8, 10), (4, 8), ()),
        ({EVERY: 0, EVALUATE: 3}, None, (0, 10), (), (3, 6, 9, 10)),
        ({EVERY: 4}, 4, (8, 10), (8,), (8, 10)),
        ({EVERY: 4}, 5, (8, 10), (8,), (8, 10)),
        ({EVERY: 4}, 10, (), (), (10,)),
    ],
)
def test_cadence(
    tmp_path: Path,
    values: dict[tuple[str, str], Any],
    first: int | None,
    saves: tuple[int, ...],
    exports: tuple[int, ...],
    evaluations: tuple[int, ...],
) -> None:
    found = cadence_of(start(tmp_path, 10, values, first=first))
    assert (found.saves, found.exports, found.evaluations) == (saves, exports, evaluations)


def test_states_are_as_many_as_are_kept(tmp_path: Path) -> None:
    name = "lora_output/state_YYYYMMDD_HHMMSS/manifest.json"
    keep = ("cadence", "keep_states")
    assert files(start(tmp_path, 10, {EVERY: 2}))[name] == (3, 3)
    assert files(start(tmp_path, 10, {EVERY: 2, keep: 2}))[name] == (2, 2)
    assert files(start(tmp_path, 10, {EVERY: 0}))[name] == (2, 2)
    assert files(start(tmp_path, 10, {EVERY: 0}), by_clock=True)[name] == (2, 3)
    held = {EVERY: 2, ("dataset", "held_out"): ("a",)}
    assert files(start(tmp_path, 10, held))[name] == (3, 4)


def test_the_best_needs_held_out_pictures_and_evaluation(tmp_path: Path) -> None:
    held = ("dataset", "held_out")
    name = "lora_output/last-best.safetensors"
    assert name in files(start(tmp_path, 10, {held: ("a",)}))
    assert name not in files(start(tmp_path, 10, {held: ("a",), EVALUATE: 0}))
    assert name not in files(start(tmp_path, 10))


def test_only_the_first_and_the_last_evaluation_are_certain(tmp_path: Path) -> None:
    found = files(start(tmp_path, 10, {EVALUATE: 4}), samples=5)
    assert found["lora_output/samples/step-00000004/*.png"] == (5, 5)
    assert found["lora_output/samples/step-00000008/*.png"] == (0, 5)
    assert found["lora_output/samples/step-00000010/*.png"] == (5, 5)
    assert found["lora_output/samples/control/*.png"] == (5, 5)


def test_another_output_has_its_own_logs(tmp_path: Path) -> None:
    one = start(tmp_path, 10)
    other = Start(RunFolder(tmp_path / "mine"), one.config, 10, is_new=True, first_step=0)
    assert "training_logs/mine/training_loss_log.txt" in files(other)
    assert "training_logs/training_loss_log.txt" in files(one)


def test_what_an_earlier_run_left_goes_to_the_backup(tmp_path: Path) -> None:
    one = start(tmp_path, 10)
    for name in ("last.safetensors", "ledger.jsonl", "state_20200101_000000/manifest.json"):
        (one.run.root / name).parent.mkdir(parents=True, exist_ok=True)
        (one.run.root / name).write_text("x")
    one.run.training_logs.mkdir()
    one.run.loss_log.write_text("step")
    moved = {name for name in files(one) if name.startswith("lora_output_backup/")}
    assert moved == {
        "lora_output_backup/last_backup_YYYYMMDD_HHMMSS.safetensors",
        "lora_output_backup/run_YYYYMMDD_HHMMSS/ledger.jsonl",
        "lora_output_backup/run_YYYYMMDD_HHMMSS/state_20200101_000000/manifest.json",
        "lora_output_backup/run_YYYYMMDD_HHMMSS/training_loss_log.txt",
    }


def test_without_matplotlib_there_are_no_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "training_logs/lora_training_curves_YYYYMMDD_HHMMSS.png"
    monkeypatch.setattr(module, "find_spec", lambda _: object())
    assert name in files(start(tmp_path, 10))
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    assert name not in files(start(tmp_path, 10))


def test_of_a_run_that_owes_its_end_alone_much_may_be_there(tmp_path: Path) -> None:
    owed = start(tmp_path, 10, {EVERY: 4, ("dataset", "hold_out"): 1, ("dataset", "held_out"): ("a",)}, first=10)
    export = owed.run.export("last")
    export.parent.mkdir(parents=True)
    export.touch()
    found = files(owed)
    for name in ("last.safetensors", "last-best.safetensors", "samples/step-00000010/*.png"):
        assert found[f"lora_output/{name}"][0] == 0
    assert found[f"lora_output_backup/last_backup_{module.TIME}.safetensors"] == (0, 1)
    assert found["lora_output/ledger.jsonl"] == (1, 1)
    assert not [name for name in found if "/state" in name and found[name][0]]
