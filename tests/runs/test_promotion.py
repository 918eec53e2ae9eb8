import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from lorasmith.config import RunConfig, dump_run_toml
from lorasmith.errors import ResourceError
from lorasmith.runs import promotion
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.locks import FolderLock, is_held
from lorasmith.runs.promotion import PLAN, back_up_export, finish_promotion, move, promote
from tests.interrupted import Cut, cut_at, tree

NOW = datetime(2025, 3, 4, 12, 5, 6)
STAMP = "20250304_120506"


def config_named(name: str) -> bytes:
    return dump_run_toml(RunConfig().with_values({("export", "name"): name}))


def make(root: Path, *, name: str = "cat", output: str = "lora_output") -> RunFolder:
    """A run that was trained, and another one staged to take its place."""
    run = RunFolder(root / output)
    state = run.root / "狀態目錄_20250101_000000"
    state.mkdir(parents=True)
    (state / "manifest.json").write_bytes(b"m")
    run.lock.touch()
    run.config.write_bytes(config_named(name))
    run.ledger.write_bytes(b"old ledger\n")
    run.export(name).write_bytes(b"old lora")
    run.export(name, 5).write_bytes(b"old lora of step 5")
    (run.root / "notes of mine.txt").write_bytes(b"keep")
    (run.root / "link").symlink_to("nowhere")
    run.tensorboard.mkdir()
    (run.tensorboard / "events.out").write_bytes(b"old events")
    run.training_logs.mkdir(parents=True)
    run.loss_log.write_bytes(b"old csv")
    (run.training_logs / "report.html").write_bytes(b"of some run")
    run.staging.mkdir()
    (run.staging / "run.toml").write_bytes(b"new config")
    for passing in ("early.jsonl", "heartbeat", "stop.request", ".stop.request.77.tmp"):
        (run.staging / passing).write_bytes(b"passing")
    return run


BACKUP = f"lora_output_backup/run_{STAMP}"
PROMOTED: dict[str, bytes | str] = {
    "lora_output/run.lock": b"",
    "lora_output/run.toml": b"new config",
    f"lora_output_backup/cat_backup_{STAMP}.safetensors": b"old lora",
    f"{BACKUP}/cat-step00000005.safetensors": b"old lora of step 5",
    f"{BACKUP}/ledger.jsonl": b"old ledger\n",
    f"{BACKUP}/link": "-> nowhere",
    f"{BACKUP}/logs/events.out": b"old events",
    f"{BACKUP}/notes of mine.txt": b"keep",
    f"{BACKUP}/run.toml": config_named("cat"),
    f"{BACKUP}/training_loss_log.txt": b"old csv",
    f"{BACKUP}/狀態目錄_20250101_000000/manifest.json": b"m",
    "training_logs/report.html": b"of some run",
}


def test_the_lock_of_the_worker_stays_where_it_is(tmp_path: Path) -> None:
    run = make(tmp_path)
    with FolderLock(run.worker_lock):  # by the very process that promotes
        promote(run, now=NOW)
        assert is_held(run.worker_lock)


def test_the_old_run_makes_room_for_the_new_one(tmp_path: Path) -> None:
    promote(make(tmp_path), now=NOW)
    assert tree(tmp_path) == PROMOTED


def test_files_are_moved_not_copied(tmp_path: Path) -> None:
    run = make(tmp_path)
    before = {path.stat().st_ino for path in run.root.rglob("*") if path.is_file() and path != run.lock}
    promote(run, now=NOW)
    assert before == {path.stat().st_ino for path in run.backup.rglob("*") if path.is_file()} - {
        (run.backup / f"run_{STAMP}" / "training_loss_log.txt").stat().st_ino
    }


def test_a_folder_without_a_run_makes_no_backup(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "lora_output")
    run.root.mkdir()
    run.lock.touch()
    run.staging.mkdir()
    (run.staging / "run.toml").write_bytes(b"new config")
    promote(run, now=NOW)
    assert tree(tmp_path) == {"lora_output/run.lock": b"", "lora_output/run.toml": b"new config"}


def test_a_backup_of_the_same_second_is_not_touched(tmp_path: Path) -> None:
    for number in range(3):
        if number:
            shutil.rmtree(tmp_path / "lora_output")
            shutil.rmtree(tmp_path / "training_logs")
        run = make(tmp_path)
        run.export("cat").write_bytes(b"lora %d" % number)
        run.ledger.write_bytes(b"ledger %d" % number)
        promote(run, now=NOW)
    backup = tmp_path / "lora_output_backup"
    for number, mark in enumerate(("", "_2", "_3")):
        assert (backup / f"cat_backup_{STAMP}{mark}.safetensors").read_bytes() == b"lora %d" % number
        assert (backup / f"run_{STAMP}{mark}" / "ledger.jsonl").read_bytes() == b"ledger %d" % number
    assert len(list(backup.iterdir())) == 6


def test_the_export_is_known_by_the_old_run_s_name_for_it(tmp_path: Path) -> None:
    run = make(tmp_path, name="貓 v1.5")
    (run.root / "last.safetensors").write_bytes(b"not the export")
    promote(run, now=NOW)
    assert (run.backup / f"貓 v1.5_backup_{STAMP}.safetensors").read_bytes() == b"old lora"
    assert (run.backup / f"run_{STAMP}" / "last.safetensors").read_bytes() == b"not the export"


@pytest.mark.parametrize("config", [None, b"", b"not = [toml", b'future = "key"\n'])
def test_an_old_run_that_cannot_be_read_is_moved_all_the_same(tmp_path: Path, config: bytes | None) -> None:
    run = make(tmp_path, name="last")
    run.config.unlink() if config is None else run.config.write_bytes(config)
    promote(run, now=NOW)
    assert (run.backup / f"last_backup_{STAMP}.safetensors").read_bytes() == b"old lora"
    assert run.config.read_bytes() == b"new config"


def test_another_output_has_its_own_backup_and_logs(tmp_path: Path) -> None:
    promote(make(tmp_path, output="mine"), now=NOW)
    found = tree(tmp_path)
    assert found[f"mine_backup/run_{STAMP}/training_loss_log.txt"] == b"old csv"
    assert found["training_logs/mine/report.html"] == b"of some run"
    assert not any(name.startswith("lora_output") for name in found)


def test_two_files_of_one_name_both_stay(tmp_path: Path) -> None:
    run = make(tmp_path)
    (run.root / "training_loss_log.txt").write_bytes(b"a copy somebody made")
    promote(run, now=NOW)
    rest = run.backup / f"run_{STAMP}"
    assert (rest / "training_loss_log.txt").read_bytes() == b"a copy somebody made"
    assert (rest / "training_logs_training_loss_log.txt").read_bytes() == b"old csv"
    assert not run.loss_log.exists()


def test_without_a_plan_there_is_nothing_to_finish(tmp_path: Path) -> None:
    run = make(tmp_path)
    before = tree(tmp_path)
    assert finish_promotion(run) is False
    assert tree(tmp_path) == before
    assert finish_promotion(RunFolder(tmp_path / "nothing")) is False


# -- cut short -------------------------------------------------------------------------------------


def next_start(run: RunFolder) -> None:
    """What the supervisor does first: what was planned is finished, staging without a plan is taken away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        if not finish_promotion(run) and run.staging.exists():
            shutil.rmtree(run.staging)


def cut_everywhere(tmp_path: Path, again: Callable[[RunFolder], None], *, parent: Path | None = None) -> int:
    """Promotes once for each point where it can be cut short, goes on with `again`, and compares; how many points."""
    points = 0
    for before in (True, False):
        for number in range(200):
            root = tmp_path / f"{before}_{number}"
            run = make(root)
            before_it = tree(run.root)
            if parent is not None:
                (root / "lora_output_backup").symlink_to(parent / f"{before}_{number}")
                (parent / f"{before}_{number}").mkdir()
            with suppress(Cut), cut_at(number, before=before) as done:
                promote(run, now=NOW)
            had_plan = (run.staging / PLAN).exists()
            again(run)
            found = tree(root)
            if parent is not None:
                del found["lora_output_backup"]
                moved = tree(parent / f"{before}_{number}")
                found |= {f"lora_output_backup/{name}": content for name, content in moved.items()}
            if had_plan or found.get("lora_output/run.toml") == b"new config":
                assert found == PROMOTED, (before, number)
            else:  # cut before there was a plan: the old run is as it was
                assert tree(run.root) == before_it
            if len(done) <= number:
                break
            points += 1
        else:
            raise AssertionError("never done")
    return points


def test_cut_short_anywhere_it_is_finished_by_the_next_start(tmp_path: Path) -> None:
    assert cut_everywhere(tmp_path, next_start) == 40


def test_the_finishing_can_be_cut_short_too(tmp_path: Path) -> None:
    def again(run: RunFolder) -> None:
        for number in range(200):
            try:
                with cut_at(number % 9, before=True):
                    next_start(run)
                return
            except Cut:
                pass
            if number % 9 == 8:
                next_start(run)

    assert cut_everywhere(tmp_path, again) == 40


def test_a_folder_that_was_renamed_meanwhile_is_finished_where_it_is(tmp_path: Path) -> None:
    run = make(tmp_path / "before")
    with cut_at(8, before=True), pytest.raises(Cut):
        promote(run, now=NOW)
    assert (run.staging / PLAN).exists() and run.config.exists()
    (tmp_path / "before").rename(tmp_path / "after")
    assert finish_promotion(RunFolder(tmp_path / "after" / "lora_output"))
    assert tree(tmp_path / "after") == PROMOTED


def test_a_real_kill_is_survived(tmp_path: Path) -> None:
    run = make(tmp_path)
    program = f"""
import os
from datetime import datetime
from pathlib import Path
from lorasmith.runs import promotion
from lorasmith.runs.layout import RunFolder
from tests.interrupted import Cut, cut_at, tree
real, moved = promotion.move, []
def move(source, target):
    if len(moved) == 3:
        os.kill(os.getpid(), 9)
    moved.append(source)
    real(source, target)
promotion.move = move
promotion.promote(RunFolder(Path({str(run.root)!r})), now=datetime(2025, 3, 4, 12, 5, 6))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2])
    assert done.returncode == -9 and tree(tmp_path) != PROMOTED
    assert finish_promotion(run)
    assert tree(tmp_path) == PROMOTED


def test_a_stop_request_that_comes_while_staging_is_removed_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, real, times = make(tmp_path), shutil.rmtree, []

    def rmtree(path: Path, *rest: Any, **more: Any) -> None:
        if path == run.staging and not times:
            times.append(path)
            (path / "late").mkdir()
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        real(path, *rest, **more)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    promote(run, now=NOW)
    assert times and tree(tmp_path) == PROMOTED


# -- one thing moved -------------------------------------------------------------------------------


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own."""
    there = Path("/dev/shm")
    if not there.is_dir() or there.stat().st_dev == tmp_path.stat().st_dev or not os.access(there, os.W_OK):
        pytest.skip("there is one disk only")
    folder = there / f"{tmp_path.name}-{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"mine")
    (tmp_path / "b").write_bytes(b"theirs")
    move(tmp_path / "a", tmp_path / "b")
    assert tree(tmp_path) == {"b": b"theirs", "b_2": b"mine"}
    move(tmp_path / "a", tmp_path / "c" / "d")  # there is none any more
    assert tree(tmp_path) == {"b": b"theirs", "b_2": b"mine"}


def test_a_folder_is_not_put_into_one_that_is_there(tmp_path: Path) -> None:
    for name in ("a/x", "b/y"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(name.encode())
    move(tmp_path / "a", tmp_path / "b")
    assert tree(tmp_path) == {"b/y": b"b/y", "b_2/x": b"a/x"}


def test_between_disks_it_is_copied_whole_first(tmp_path: Path, other_disk: Path) -> None:
    run = make(tmp_path)
    (tmp_path / "lora_output_backup").symlink_to(other_disk)
    os.utime(run.export("cat"), (1, 1))
    promote(run, now=NOW)
    moved = {f"lora_output_backup/{name}": content for name, content in tree(other_disk).items()}
    found = tree(tmp_path)
    assert found.pop("lora_output_backup") == f"-> {other_disk}"
    assert {**found, **moved} == PROMOTED
    assert (other_disk / f"cat_backup_{STAMP}.safetensors").stat().st_mtime == 1


def test_between_disks_it_can_be_cut_short_anywhere(tmp_path: Path, other_disk: Path) -> None:
    assert cut_everywhere(tmp_path, next_start, parent=other_disk) > 110


def test_a_full_disk_of_the_backup_is_named_and_loses_nothing(
    tmp_path: Path, other_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path)
    (tmp_path / "lora_output_backup").symlink_to(other_disk)
    real, copied = shutil.copy2, []

    def copy2(source: str, target: str, **more: Any) -> None:
        copied.append(source)
        if len(copied) == 3:
            Path(target).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target, **more)

    monkeypatch.setattr(shutil, "copy2", copy2)
    with pytest.raises(ResourceError) as caught:
        promote(run, now=NOW)
    assert caught.value.code == "disk_full"
    monkeypatch.undo()
    assert Path(copied[2]).read_bytes() == b"old ledger\n"
    assert finish_promotion(run)
    moved = {f"lora_output_backup/{name}": content for name, content in tree(other_disk).items()}
    assert {**tree(tmp_path), **moved} == {**PROMOTED, "lora_output_backup": f"-> {other_disk}"}


def test_what_a_program_on_windows_holds_open_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lorasmith.runs import durable

    real, tries = Path.rename, []

    def rename(self: Path, target: Path) -> Path:
        tries.append(self.name)
        if self.name == "logs" and tries.count("logs") < 4:
            raise PermissionError(errno.EACCES, "in use")
        return real(self, target)

    monkeypatch.setattr(durable, "on_windows", lambda: True)
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr(Path, "rename", rename)
    promote(make(tmp_path), now=NOW)
    assert tree(tmp_path) == PROMOTED and tries.count("logs") == 4


# -- the export before a newer one takes its name --------------------------------------------------


def test_the_export_is_kept_in_the_backup(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "lora_output")
    run.root.mkdir()
    assert back_up_export(run, run.export("cat"), NOW) is None
    assert tree(tmp_path) == {"lora_output": "empty folder"}
    for number, mark in enumerate(("", "_2")):
        run.export("cat").write_bytes(b"lora %d" % number)
        assert back_up_export(run, run.export("cat"), NOW) == run.backup / f"cat_backup_{STAMP}{mark}.safetensors"
    assert tree(run.backup) == {
        f"cat_backup_{STAMP}.safetensors": b"lora 0",
        f"cat_backup_{STAMP}_2.safetensors": b"lora 1",
    }
    assert run.export("cat").read_bytes() == b"lora 1"  # it is replaced by the new one, never missing in between


def test_a_plan_holds_names_that_are_no_text(tmp_path: Path) -> None:
    run = make(tmp_path)
    odd = os.fsencode(str(run.root)) + b"/odd\xff"
    with open(odd, "wb"):
        pass
    real, plans = promotion.finish_promotion, []

    def keep_plan(run: RunFolder) -> bool:
        plans.append(json.loads((run.staging / PLAN).read_bytes()))
        return real(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(promotion, "finish_promotion", keep_plan)
        promote(run, now=NOW)
    assert len(plans[0]["moves"]) == 10
    assert "odd\udcff" in {path.name for path in (run.backup / f"run_{STAMP}").iterdir()}
