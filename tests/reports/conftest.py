"""The training set and the samples of a run that never was, drawn once."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorasmith.reading.summary import RunSummary, summary_of
from tests.reading.made_up import draw_pictures, finished, watched


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(run folder, training set) with pictures in both."""
    folder = tmp_path_factory.mktemp("drawn")
    root, data = folder / "lora_output", folder / "lora_train_set"
    draw_pictures(data)
    finished(data, root=root)
    return root, data


@pytest.fixture(scope="session")
def summary(drawn: tuple[Path, Path]) -> RunSummary:
    return summary_of(finished(drawn[1]), watched(1))
