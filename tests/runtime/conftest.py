"""A run that tests of this folder share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lorasmith.demo.miniature import draw_pictures
from tests.end_to_end.workshop import Workshop


@pytest.fixture(scope="module")
def done(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """A run of 4 steps that were asked for at --new, with states of the steps 2 and 4; read only."""
    folder = tmp_path_factory.mktemp("done")
    draw_pictures(folder / "lora_train_set", 5, seed=1, size=(64, 64), repeats=2)
    with pytest.MonkeyPatch.context() as patch:
        workshop = Workshop(folder, base_model, patch)
        workshop.new(4, {("cadence", "save_every"): 2})
        yield workshop
