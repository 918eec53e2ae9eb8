"""Removes numbered LoRA files that --save-last-n-epochs and --save-last-n-steps no longer keep."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from lorasmith.config import CadenceConfig
from lorasmith.engine.occasions import Occasions
from lorasmith.runs.events import AdapterExported
from lorasmith.runs.naming import FileNames
from lorasmith.runs.states import has_sha256


def remove_outdated(
    exports: Mapping[str, AdapterExported], step: int, *, cadence: CadenceConfig, saves: Occasions, names: FileNames
) -> list[str]:
    """Removes the files that a file of `step` has made outdated; returns their names, as events have them. A file that
    was changed since the run wrote it stays: it is the user's.

    Args:
        exports: the newest event of each file.
    """
    removed = []
    for exported in exports.values():
        path = names.run.root / exported.path
        if is_outdated(exported, step, cadence=cadence, saves=saves, names=names):
            with suppress(PermissionError):
                if has_sha256(path, exported.sha256):
                    path.unlink()
            removed.append(exported.path)
    return removed


def is_outdated(
    exported: AdapterExported, step: int, *, cadence: CadenceConfig, saves: Occasions, names: FileNames
) -> bool:
    """Whether nothing keeps a file any more; a file that is due by steps and by epochs has two reasons to stay."""
    verdicts = []
    epoch = saves.epoch_ended(exported.step)
    if epoch is not None and exported.path == names.recorded(names.of_epoch(epoch, exported.step)):
        oldest = saves.completed_epochs(step) // saves.every_epochs - cadence.save_last_n_epochs
        verdicts.append(cadence.save_last_n_epochs > 0 and epoch // saves.every_epochs <= oldest)
    if saves.is_due_by_steps(exported.step) and exported.path == names.recorded(names.of_step(exported.step)):
        verdicts.append(0 < cadence.save_last_n_steps < step - exported.step)
    return bool(verdicts) and all(verdicts)
