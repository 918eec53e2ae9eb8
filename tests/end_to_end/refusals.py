"""A folder for things to be refused in: a finished run, everything cached, and all kinds of bad input beside it."""

import pickle
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from lorasmith.config import Request
from lorasmith.demo.miniature import draw_pictures
from lorasmith.errors import ExitCode, TrainerError
from lorasmith.runs.events import RunStopped
from lorasmith.runs.layout import RunFolder
from lorasmith.runtime.preflight import Start, continued_run, new_run
from tests.end_to_end.workshop import QUIET, Workshop, tree

Values = Mapping[tuple[str, str], Any]


class Payload:
    """Unpickled, it would make the file it names."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


@dataclass
class Desk:
    """A folder with a finished run of two steps, everything cached, and things beside it that are wrong."""

    folder: Path
    bad: Path
    workshop: Workshop

    def new(self, output: str, values: Values, *, steps: int | None = 2, epochs: int | None = None) -> Start:
        settings = {**QUIET, ("model", "base_model"): str(self.workshop.base_model), **values}
        wish = Request(steps=steps, epochs=epochs, output=output)
        return new_run(settings, wish, state_prefix="state", here=self.folder)

    def go_on(self, output: str, values: Values, *, from_state: str = "", steps: int | None = 2) -> Start:
        run = RunFolder(self.folder / output)
        return continued_run(run, values, Request(steps=steps), from_state=from_state, here=self.folder)

    def refusal(self, start: Callable[[], Start]) -> tuple[str, ExitCode, dict[str, Any]]:
        """How it is refused: at once, by the supervisor, or by the worker."""
        try:
            outcome = self.workshop.watch(start())
        except TrainerError as error:
            return error.code, error.exit_code, error.fields
        stopped = outcome.of(RunStopped)[-1]
        assert stopped.exit_code == outcome.exit_code
        return stopped.code, outcome.exit_code, stopped.fields


def make_bad_things(bad: Path, workshop: Workshop) -> None:
    (bad / "empty").mkdir(parents=True)
    pictures = draw_pictures(bad / "pictures", 4, seed=2, size=(64, 64))
    (pictures / "picture_000.png").write_bytes(b"")
    (pictures / "picture_001.png").write_bytes((pictures / "picture_001.png").read_bytes()[:200])
    (pictures / "picture_002.png").write_text("no picture")
    captions = draw_pictures(bad / "captions", 1, seed=2, size=(64, 64))
    (captions / "picture_000.txt").write_bytes(b"caf\xe9 \xff\xfe")
    draw_pictures(bad / "tiny", 1, seed=2, size=(40, 64))
    save = safetensors.torch.save_file
    some = torch.zeros(2, 2)
    save({"something": some}, bad / "unknown.safetensors")
    save({"model.diffusion_model.double_blocks.0.weight": some}, bad / "flux.safetensors")
    shutil.copy(workshop.run.export("last"), bad / "lora.safetensors")
    whole = (bad / "lora.safetensors").read_bytes()
    (bad / "truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    (bad / "payload.ckpt").write_bytes(pickle.dumps({"state_dict": Payload(bad / "executed")}))
    stored = safetensors.torch.load_file(bad / "lora.safetensors")
    save({**stored, "lora_unet_nowhere.lora_down.weight": some}, bad / "foreign.safetensors")
    wide = {name: _wider(tensor) if name.endswith("lora_down.weight") else tensor for name, tensor in stored.items()}
    save(wide, bad / "wide.safetensors")
    (bad / "file").write_text("a file")


def _wider(tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat([tensor, tensor], dim=1)


def refused_the_same(desk: Desk, outputs: tuple[str, ...], start: Callable[[str], Start]) -> list[tuple[Any, ...]]:
    """Each start is refused, and the folder is what it was to the byte."""
    found = []
    for output in outputs:
        before = tree(desk.folder)
        code, exit_code, fields = desk.refusal(lambda output=output: start(output))  # type: ignore[misc]
        assert tree(desk.folder) == before
        found.append((code, exit_code, fields))
    assert len({row[:2] for row in found}) == 1
    return found


class Changed:
    """A file that is put back as it was."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.was = file.read_bytes()

    def __enter__(self) -> Path:
        return self.file

    def __exit__(self, *_: object) -> None:
        self.file.write_bytes(self.was)
