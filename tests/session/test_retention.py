from pathlib import Path

import pytest

from lorasmith.config import CadenceConfig, ExportConfig
from lorasmith.engine.occasions import Occasions
from lorasmith.runs.events import AdapterExported
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.naming import FileNames
from lorasmith.runs.states import sha256_of
from lorasmith.session.retention import remove_outdated

PER_EPOCH = 10


def kept_after(names: FileNames, cadence: CadenceConfig, saves: Occasions, steps: int) -> list[str]:
    """The files that are left when a run has made everything that is due up to a step."""
    names.run.root.mkdir(parents=True)
    exports: dict[str, AdapterExported] = {}
    for step in range(1, steps + 1):
        epoch = saves.epoch_ended(step)
        due = [names.of_step(step)] if saves.is_due_by_steps(step) else []
        due += [names.of_epoch(epoch, step)] if epoch is not None else []
        for path in due:
            path.write_bytes(str(step).encode())
            name = names.recorded(path)
            exports[name] = AdapterExported(attempt=1, time=0.0, step=step, path=name, sha256=sha256_of(path))
        if due:
            for name in remove_outdated(exports, step, cadence=cadence, saves=saves, names=names):
                del exports[name]
    return sorted(path.stem.removeprefix("cat-") for path in names.folder.glob("*.safetensors"))


def naming(tmp_path: Path, kind: str) -> FileNames:
    return FileNames(RunFolder(tmp_path / "cat-run"), ExportConfig.model_validate({"name": "cat", "naming": kind}))


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        # Worked out by hand from the rule by which sd-scripts removes files (ADR 34), at each of the 50 steps.
        ({"save_every": 10, "save_last_n_steps": 30}, ["step00000020", "step00000030", "step00000040", "step00000050"]),
        ({"save_every": 10, "save_last_n_steps": 25}, ["step00000030", "step00000040", "step00000050"]),
        ({"save_every": 10, "save_last_n_steps": 1}, ["step00000050"]),
        ({"save_every_n_epochs": 1, "save_last_n_epochs": 2}, ["000004", "000005"]),
        ({"save_every_n_epochs": 2, "save_last_n_epochs": 1}, ["000004"]),
        ({"save_every_n_epochs": 2}, ["000002", "000004"]),
    ],
)
def test_the_same_files_are_left_as_with_sd_scripts(tmp_path: Path, settings: dict[str, int], left: list[str]) -> None:
    cadence = CadenceConfig.model_validate({"save_every": 0, **settings})
    saves = Occasions(cadence.save_every, cadence.save_every_n_epochs, lambda step: step // PER_EPOCH)
    assert kept_after(naming(tmp_path, "sd-scripts"), cadence, saves, 50) == left


def test_a_file_that_is_due_twice_has_two_reasons_to_stay(tmp_path: Path) -> None:
    """By our own names the end of an epoch is a step's file too."""
    cadence = CadenceConfig(save_every=10, save_last_n_steps=10, save_every_n_epochs=2, save_last_n_epochs=2)
    saves = Occasions(10, 2, lambda step: step // PER_EPOCH)
    left = kept_after(naming(tmp_path, "own"), cadence, saves, 50)
    assert left == ["step00000020", "step00000040", "step00000050"]


def test_a_file_that_was_changed_is_not_removed(tmp_path: Path) -> None:
    names = naming(tmp_path, "own")
    names.run.root.mkdir()
    names.of_step(10).write_bytes(b"merged by hand")
    old = AdapterExported(attempt=1, time=0.0, step=10, path="cat-step00000010.safetensors", sha256="0" * 64)
    cadence, saves = CadenceConfig(save_every=10, save_last_n_steps=5), Occasions(10, 0, lambda step: 0)
    assert remove_outdated({old.path: old}, 20, cadence=cadence, saves=saves, names=names) == [old.path]
    assert names.of_step(10).exists()
