"""The names of a run's files. Knows nothing of their contents."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from lorasmith.errors import InputError
from lorasmith.file_names import is_beyond_locale, name_beyond_locale

MAX_PATH_INSIDE = 200  # bytes of the longest path in a run folder: of a sample's picture


@dataclass(frozen=True, slots=True)
class ReportPaths:
    """The files of a report, which share a time stamp."""

    json: Path
    png: Path
    html: Path


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of the run in the folder `root`."""

    root: Path

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.jsonl"

    @property
    def supervisor_log(self) -> Path:
        return self.root / "supervisor.jsonl"

    @property
    def config(self) -> Path:
        return self.root / "run.toml"

    @property
    def lock(self) -> Path:
        return self.root / "run.lock"

    @property
    def worker_lock(self) -> Path:
        return self.root / "worker.lock"

    @property
    def heartbeat(self) -> Path:
        return self.root / "heartbeat"

    @property
    def stop_request(self) -> Path:
        return self.root / "stop.request"

    @property
    def tensorboard(self) -> Path:
        return self.root / "logs"

    @property
    def samples(self) -> Path:
        return self.root / "samples"

    @property
    def staging(self) -> Path:
        """The folder in which a start is prepared until model and data have loaded."""
        return self.root.with_name(self.root.name + ".starting")

    @property
    def early_ledger(self) -> Path:
        """The ledger until the run has its folder."""
        return self.staging / "early.jsonl"

    @property
    def staged_pictures(self) -> Path:
        """The parent's scan of the pictures, which spares the worker the same reading."""
        return self.staging / "pictures.json"

    def names_while_loading(self) -> frozenset[str]:
        """Names of the files that lie in the staging folder only while a run loads."""
        files = (self.early_ledger, self.staged_pictures, self.heartbeat, self.stop_request)
        return frozenset(path.name for path in files)

    @property
    def backup(self) -> Path:
        return self.root.with_name(self.root.name + "_backup")

    @property
    def training_logs(self) -> Path:
        """`training_logs/` beside `lora_output`; a subfolder of it for a run of another name."""
        logs = self.root.with_name("training_logs")
        return logs if self.root.name == "lora_output" else logs / self.root.name

    @property
    def loss_log(self) -> Path:
        return self.training_logs / "training_loss_log.txt"

    def reports(self, now: datetime) -> ReportPaths:
        """Unused names for the three files of a report."""
        number = 1
        while True:
            mark = stamp(now) if number == 1 else f"{stamp(now)}_{number}"
            paths = ReportPaths(
                json=self.training_logs / f"lora_training_report_{mark}.json",
                png=self.training_logs / f"lora_training_curves_{mark}.png",
                html=self.training_logs / f"lora_training_report_{mark}.html",
            )
            if not any(map(os.path.lexists, (paths.json, paths.png, paths.html))):
                return paths
            number += 1

    def export(self, name: str, step: int | None = None) -> Path:
        """The LoRA for the WebUI; with `step`, the LoRA of that step."""
        return self.root / (f"{name}.safetensors" if step is None else f"{name}-step{step:08d}.safetensors")

    def new_state(self, prefix: str, now: datetime) -> Path:
        """An unused name for a state."""
        return free_name(self.root / f"{prefix}_{stamp(now)}")


def run_at(here: Path, named: str) -> RunFolder:
    """Returns the run in the folder `named`, relative to `here`. A link is not resolved: its backup lies beside it.

    Raises:
        InputError: `output_unusable`, the path is too long, leads in a circle, or is the top of a disk.
        ConfigError: `name_beyond_locale`.
    """
    run = RunFolder(Path(os.path.abspath(here / named)))  # noqa: PTH100 - resolving would follow the link
    if is_beyond_locale(str(run.root)):
        raise name_beyond_locale(str(run.root))
    if not run.root.name:  # the top of a disk: nothing can lie beside it
        raise InputError("output_unusable", folder=str(run.root), reason=os.strerror(errno.EINVAL))
    for path in (run.root, run.staging, run.backup / ("x" * MAX_PATH_INSIDE)):
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue  # creating it will show whether it can be created
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InputError("output_unusable", folder=str(run.root), reason=reason) from error
    return run


def stamp(now: datetime) -> str:
    """The time in the names of files: YYYYMMDD_HHMMSS."""
    return now.strftime("%Y%m%d_%H%M%S")


def free_name(path: Path) -> Path:
    """Returns `path`, or the first of path_2, path_3 … (before the suffix) that does not exist."""
    candidate, number = path, 1
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.stem}_{number}{path.suffix}")
    return candidate
