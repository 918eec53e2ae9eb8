"""A cut of power at every moment in which --new takes the place of an old run: nothing of the old one is ever lost."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from lorasmith.config import RunConfig, dump_run_toml
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.promotion import promote
from lorasmith.runs.states import MANIFEST, OWN_FILES, manifest_bytes, newest_good
from lorasmith.runtime.cleanup import clear_staging
from tests.faults.power_loss import Laid, moments
from tests.faults.watched_files import Record, watched

SEED = 3
MOST = 300
NEW = dump_run_toml(RunConfig().with_values({("", "seed"): 9}))


@pytest.fixture
def laid() -> Iterator[Laid]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Laid(Path(folder))


def old_run(run: RunFolder) -> None:
    """With two states, exports, a ledger and a CSV; each file with contents of its own."""
    for step in (1, 2):
        state = run.root / f"state_{step}"
        state.mkdir(parents=True)
        for name in OWN_FILES:
            (state / name).write_text(f"old {name} {step}")
        (state / MANIFEST).write_bytes(manifest_bytes(state, step=step, identity="old"))
    run.config.write_bytes(dump_run_toml(RunConfig()))
    run.ledger.write_text("old ledger\n")
    run.export("last").write_text("old export")
    run.export("last", 1).write_text("old export of step 1")
    run.training_logs.mkdir()
    run.loss_log.write_text("old csv")


def contents(folder: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def recorded(folder: Path) -> tuple[Record, list[bytes]]:
    run = RunFolder(folder / "lora_output")
    run.root.mkdir(parents=True)
    old_run(run)
    held = contents(folder)
    run.staging.mkdir()
    (run.staging / "run.toml").write_bytes(NEW)
    run.early_ledger.write_text("early\n")
    with watched(folder) as record:
        promote(run, now=datetime(2026, 1, 2, 3, 4, 5))
        record.mark("promoted")
    assert record.differs_from_disk() == []
    return record, held


def test_nothing_of_the_old_run_is_lost(tmp_path: Path, laid: Laid, monkeypatch: pytest.MonkeyPatch) -> None:
    record, held = recorded(tmp_path / "home")
    monkeypatch.setattr(os, "fsync", lambda _: None)
    seen, count, exhaustive, number = {}, 0, 0, 0
    for moment in moments(record, most=MOST, seed=SEED):
        number += 1
        exhaustive += moment.is_exhaustive
        for tree in moment.trees:
            count += 1
            if tree not in seen:
                seen[tree] = wrong(laid.out(tree), held)
            assert seen[tree] == "", (seen[tree], moment.number, moment.after, [path for path, _ in tree])
            if moment.after == "promoted":
                assert dict(tree).get("lora_output/run.toml") == NEW
    sys.stdout.write(f"\n{number} moments, {exhaustive} exhaustively; {count} disks, {len(seen)} different; 0 bad\n")
    assert exhaustive > number / 2


def wrong(disk: Path, held: list[bytes]) -> str:
    """What is wrong with a disk once the next start has done what it does first."""
    run = RunFolder(disk / "lora_output")
    clear_staging(run)
    if run.staging.exists():
        return "staging stayed"
    there = contents(disk)
    for content in held:
        if content not in there:
            return f"lost: {content[:40]!r}"
    if run.config.exists() and run.config.read_bytes() == NEW:
        old = next(run.backup.glob("run_*"), None)
        return (
            "" if old is not None and newest_good(run.root)[0] is None else "the new run without the old one's backup"
        )
    good, damaged = newest_good(run.root)
    return "" if good is not None and good.step == 2 and damaged == [] else "neither the old run nor the new one"


def test_it_would_be_noticed(tmp_path: Path, laid: Laid, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without waiting for files a plan may be empty; without waiting for folders what was moved may be gone."""
    record, held = recorded(tmp_path / "home")
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for unheard in ("files", "folders"):
        bad = 0
        for moment in moments(record, most=40, seed=SEED, unheard=(unheard,)):
            for tree in moment.trees:
                try:
                    bad += bool(wrong(laid.out(tree), held))
                except ValueError:  # the plan is no JSON
                    bad += 1
        sys.stdout.write(f"\nwithout syncing {unheard}: {bad} bad disks\n")
        assert bad > 10
    shutil.rmtree(tmp_path / "home")
