"""A desk with a finished run, once for all tests of this folder. They put bad things on it and take them away again."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorasmith.demo.miniature import draw_pictures, to_single_file
from lorasmith.errors import ExitCode
from tests.end_to_end.refusals import Desk
from tests.end_to_end.workshop import Workshop


@pytest.fixture(scope="session")
def single(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature as one file that describes itself."""
    return to_single_file(base_model, tmp_path_factory.mktemp("single") / "model.safetensors", with_configs=True)


@pytest.fixture(scope="session")
def pickled(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as torch pickles it."""
    return to_single_file(base_model, tmp_path_factory.mktemp("pickled") / "model.ckpt", with_configs=False)


@pytest.fixture(scope="session")
def desk(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    draw_pictures(folder / "lora_train_set", 3, seed=1, size=(64, 64))
    base = shutil.copytree(base_model, folder / "base")
    with pytest.MonkeyPatch.context() as patch:
        made = Desk(folder, folder / "bad", Workshop(folder, base, patch))
        made.bad.mkdir()
        assert made.workshop.new(2, {("cadence", "save_every"): 1}).exit_code == ExitCode.FINISHED
        yield made


@pytest.fixture
def bad(desk: Desk) -> Iterator[Path]:
    """A folder on the desk for what is wrong; empty again after the test."""
    desk.bad.mkdir(exist_ok=True)
    yield desk.bad
    shutil.rmtree(desk.bad, ignore_errors=True)
