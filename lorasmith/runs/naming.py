"""The names of a run's LoRA files and states: this program's own, or those of sd-scripts (docs/adr/0034).

By sd-scripts' names the LoRA files of `output_dir/NAME` lie in `output_dir` itself, with those of other names, and
everything else is in the run folder `output_dir/NAME-run`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from lorasmith.config import ExportConfig, load_run_toml
from lorasmith.errors import ConfigError
from lorasmith.runs.layout import RunFolder

RUN_SUFFIX = "-run"
_NUMBERED = re.compile(r"(-step[0-9]{8,}|-[0-9]{6,})\.safetensors")
_STATE = re.compile(r"(?P<name>.+?)(?:-[0-9]{6,}|-step[0-9]{8,}|(?P<newest>))-state")


@dataclass(frozen=True, slots=True)
class FileNames:
    """The paths of a run's LoRA files and states."""

    run: RunFolder
    export: ExportConfig

    @property
    def folder(self) -> Path:
        """The folder of the LoRA files."""
        return self.run.root.parent if self._is_foreign else self.run.root

    @property
    def last(self) -> Path:
        """The LoRA for the WebUI."""
        return self.folder / f"{self.export.name}.safetensors"

    @property
    def best(self) -> Path:
        """A copy of the LoRA of the best step."""
        return self.folder / f"{self.export.name}-best.safetensors"

    @property
    def other(self) -> Path | None:
        """The second LoRA file of the last step, under the names of --export-format."""
        form = self.export.format
        return self.folder / f"{self.export.name}-{form}.safetensors" if form else None

    def of_step(self, step: int) -> Path:
        """The LoRA of a step."""
        return self.folder / f"{self._stem('at')}-step{step:08d}.safetensors"

    def of_epoch(self, epoch: int, step: int) -> Path:
        """The LoRA at the end of an epoch, from 1, which is the LoRA of a step."""
        if not self._is_foreign:
            return self.of_step(step)
        return self.folder / f"{self._stem('epoch')}-{epoch:06d}.safetensors"

    @property
    def patterns(self) -> tuple[str, ...]:
        """Patterns of the names of numbered LoRA files, as `glob` takes them."""
        steps = f"{_escaped(self._stem('at'))}-step*.safetensors"
        numbers = "[0-9]" * 6
        return (steps, f"{_escaped(self._stem('epoch'))}-{numbers}.safetensors") if self._is_foreign else (steps,)

    def state(self, step: int, epoch: int | None, now: datetime) -> Path:
        """The folder of a state; `epoch`: it is saved for the end of that epoch."""
        if not self._is_foreign:
            return self.run.new_state(self.export.state_prefix, now)
        if epoch is not None:
            return self.run.root / f"{self._stem('epoch')}-{epoch:06d}-state"
        return self.run.root / f"{self._stem('at')}-step{step:08d}-state"

    @property
    def state_pattern(self) -> Path:
        """A pattern of the folders of states, for people."""
        if not self._is_foreign:
            return self.run.root / f"{self.export.state_prefix}_YYYYMMDD_HHMMSS"
        return self.run.root / f"{self._stem('at')}-step*-state"

    def recorded(self, path: Path) -> str:
        """A LoRA file as events name it: its path from the run folder."""
        return f"../{path.name}" if self._is_foreign else path.name

    def beside(self) -> list[Path]:
        """The LoRA files of these names outside the run folder, of this run or of any other program."""
        if not self._is_foreign or not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if self.is_of(path.name))

    def is_of(self, name: str) -> bool:
        """Whether a LoRA file of this run may have the name."""
        if name in (self.last.name, self.best.name) or (self.other is not None and name == self.other.name):
            return True
        stems = (self._stem("at"), self._stem("epoch"))
        return any(name.startswith(stem) and _NUMBERED.fullmatch(name[len(stem) :]) for stem in stems)

    @property
    def _is_foreign(self) -> bool:
        return self.export.naming != "own"

    def _stem(self, unnamed: str) -> str:
        return unnamed if self.export.naming == "sd-scripts-unnamed" else self.export.name


class NamedState(NamedTuple):
    """A state by the path that sd-scripts' --resume takes."""

    run: RunFolder
    state: str  # name of its folder; "": the newest


def names_in(run: RunFolder, config: Path | None = None) -> FileNames:
    """The names by the settings in a run.toml, that of the run where no other is given; the defaults where it cannot be
    read."""
    try:
        return FileNames(run, load_run_toml(config or run.config).export)
    except ConfigError:
        return FileNames(run, ExportConfig())


def output_of(output_dir: str, output_name: str | None) -> str:
    """The run folder for sd-scripts' --output_dir and --output_name, as --output takes it."""
    return str(Path(output_dir) / f"{output_name or 'last'}{RUN_SUFFIX}")


def naming_of(output_name: str | None) -> str:
    """The value of `export.naming` for sd-scripts' --output_name."""
    return "sd-scripts" if output_name else "sd-scripts-unnamed"


def named_state(path: Path) -> NamedState | None:
    """Finds the run and the state for sd-scripts' --resume: the folder of a state, or the name that it would have in
    `output_dir` (NAME-000002-state, NAME-step00000100-state; NAME-state is the newest). None: neither is there."""
    if (path.parent / "run.toml").is_file() and path.is_dir():
        return NamedState(RunFolder(path.parent), path.name)
    match = _STATE.fullmatch(path.name)
    if match is None:
        return None
    for name in (match["name"], "last"):
        run = RunFolder(path.parent / f"{name}{RUN_SUFFIX}")
        if run.config.is_file():
            return NamedState(run, "" if match["newest"] is not None else path.name)
    return None


def _escaped(name: str) -> str:
    """A name within a glob pattern, where brackets have a meaning."""
    return name.replace("[", "[[]")
