"""Every path of a run, and the one way files get their final names. Knows nothing of what is in them."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from lorasmith.errors import InputError, ResourceError
from lorasmith.faults import fault_point
from lorasmith.file_names import is_beyond_locale, name_beyond_locale

IN_USE_SECONDS = 5.0  # how long a file that another program holds open on Windows is waited for
IN_USE_PAUSE_SECONDS = 0.1
# What file systems say that have no such call for folders (some of CIFS and FUSE): there is nothing more to be done.
NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF})
REFUSALS = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG),
        *(errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS),  # file systems without locks
    }
)
LONGEST_INSIDE = 200  # bytes of the longest path in a run folder: of a sample's picture

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReportPaths:
    """The files of one report: one time stamp for all."""

    json: Path
    png: Path
    html: Path


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of the run in `root`, by SPEC name."""

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
        """Where --new prepares a run until model and data have loaded."""
        return self.root.with_name(self.root.name + ".starting")

    @property
    def early_ledger(self) -> Path:
        """What the worker says before there is a run to say it in."""
        return self.staging / "early.jsonl"

    @property
    def staged_pictures(self) -> Path:
        """What was read of the pictures before the worker was started; gone when data have loaded."""
        return self.staging / "pictures.json"

    @property
    def backup(self) -> Path:
        return self.root.with_name(self.root.name + "_backup")

    @property
    def training_logs(self) -> Path:
        """`training_logs/` beside `lora_output`; a folder of its own in there for a run of another name."""
        logs = self.root.with_name("training_logs")
        return logs if self.root.name == "lora_output" else logs / self.root.name

    @property
    def loss_log(self) -> Path:
        return self.training_logs / "training_loss_log.txt"

    def reports(self, now: datetime) -> ReportPaths:
        """Names for the three files of one report; none of them is taken yet."""
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
        """The LoRA for the WebUI; with a step, the one of that step."""
        return self.root / (f"{name}.safetensors" if step is None else f"{name}-step{step:08d}.safetensors")

    def best_export(self, name: str) -> Path:
        """A copy of the LoRA of the best step."""
        return self.root / f"{name}-best.safetensors"

    def new_state(self, prefix: str, now: datetime) -> Path:
        """A name for a state that is not taken yet."""
        return free_name(self.root / f"{prefix}_{stamp(now)}")


def run_at(here: Path, named: str) -> RunFolder:
    """The run in the folder named from `here`; a link stays a link, so that its backup lies beside the link.

    Raises:
        InputError: `output_unusable`, no file of a run can have such a path: it is too long, leads in a circle,
            or is the top of a disk.
        ConfigError: `name_beyond_locale`.
    """
    run = RunFolder(Path(os.path.abspath(here / named)))  # noqa: PTH100 - resolving would follow the link
    if is_beyond_locale(str(run.root)):
        raise name_beyond_locale(str(run.root))
    if not run.root.name:  # the top of a disk: nothing can lie beside it
        raise InputError("output_unusable", folder=str(run.root), reason=os.strerror(errno.EINVAL))
    for path in (run.root, run.staging, run.backup / ("x" * LONGEST_INSIDE)):
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue  # whether it can be made is seen when it is
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InputError("output_unusable", folder=str(run.root), reason=reason) from error
    return run


def stamp(now: datetime) -> str:
    return now.strftime("%Y%m%d_%H%M%S")


def free_name(path: Path) -> Path:
    """`path`, or the first of path_2, path_3 … (before the suffix) that is not there."""
    candidate, number = path, 1
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.stem}_{number}{path.suffix}")
    return candidate


# -- writing ---------------------------------------------------------------------------------------


def write_atomically(path: Path, data: bytes, *, check: Callable[[Path], None] | None = None) -> Path:
    """Puts `data` under `path` complete or not at all: temporary name, fsync, `check`, rename, fsync of the folder.

    Returns the path written: another one where the file is held open by a program on Windows for over 5 s.
    Raises what `check` raises, with nothing left behind.

    Raises:
        ResourceError: the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with map_disk_full(path):
            write_durably(temporary, data)
        if check is not None:
            check(temporary)
            fault_point("file.checked")
        with map_disk_full(path):
            written = _replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with map_disk_full(path):  # a folder can need room for a name too
        fault_point("file.renamed")
        sync_folder(path.parent)
    return written


def write_durably(path: Path, data: bytes) -> None:
    """Writes a file and waits until it is on the disk. The mode is what any new file gets."""
    with path.open("wb") as file:
        fault_point("file.opened")
        file.write(data)
        file.flush()
        fault_point("file.written")
        os.fsync(file.fileno())
    fault_point("file.synced")


def make_folder(folder: Path) -> None:
    """Makes a folder, and those above it that are missing; all of them survive a power cut."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        one.mkdir(exist_ok=True)
        sync_folder(one.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames inside `folder` survive a power cut. Windows has no such call, and needs none."""
    if on_windows():
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)
    fault_point("folder.synced")


@contextmanager
def map_disk_full(path: Path) -> Iterator[None]:
    """A full disk or quota as ResourceError `disk_full` that names the path."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError("disk_full", path=str(path)) from error
        raise


@contextmanager
def map_write_errors(folder: Path) -> Iterator[None]:
    """A folder that cannot be written or locked, and a disk that is full already, as the InputErrors they are before a
    run."""
    try:
        with map_disk_full(folder):
            yield
    except ResourceError as error:
        raise InputError(error.code, **error.fields) from error
    except OSError as error:
        if error.errno in REFUSALS:
            raise InputError("output_not_writable", folder=str(folder), reason=str(error.strerror)) from error
        raise


def retry_while_open(action: Callable[[], T]) -> T:
    """What `action` returns; tried again for 5 s where Windows refuses it because a program holds a file open.

    Raises:
        PermissionError: it is still refused; elsewhere than on Windows at once.
    """
    give_up_at = time.monotonic() + IN_USE_SECONDS
    while True:
        try:
            return action()
        except PermissionError:
            if not on_windows() or time.monotonic() >= give_up_at:
                raise
            time.sleep(IN_USE_PAUSE_SECONDS)


def on_windows() -> bool:
    return sys.platform == "win32"


def _replace(source: Path, target: Path) -> Path:
    """os.replace, or another name where a program on Windows does not let go of the target."""
    try:
        retry_while_open(lambda: os.replace(source, target))
    except PermissionError:
        if not on_windows():
            raise
        target = free_name(target)
        os.replace(source, target)
    return target
