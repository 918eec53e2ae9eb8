"""States with manifests by somebody who knows how they are made."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lorasmith.errors import NoStateError
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.states import manifest_bytes
from tests.session.test_checkpoint import made, restore, save


class Touching:
    """Makes a file when it is read as pickle does."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_of_them_runs(tmp_path: Path) -> None:
    folder, mark = save(RunFolder(tmp_path), made(1)), tmp_path / "has run"
    torch.save({"state": Touching(mark)}, folder / "optimizer.pt")
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").write_bytes(manifest_bytes(folder, step=1, identity="identity"))
    with pytest.raises(NoStateError, match="state_damaged"):
        restore(folder, made())
    assert not mark.exists()
    torch.load(folder / "optimizer.pt", weights_only=False)
    assert mark.exists()
