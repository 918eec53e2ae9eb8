"""Runs whose pictures vary: the same bytes resumed, and whether pictures are encoded live or beforehand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lorasmith.data import augmentation
from lorasmith.data.files import BadFileError
from lorasmith.data.images import pixels
from lorasmith.data.types import Example
from lorasmith.engine import encode
from lorasmith.engine import pictures as pictures_module
from lorasmith.errors import ExitCode
from lorasmith.runs.events import CheckpointSaved, StepCompleted
from tests.end_to_end.workshop import Values, Workshop
from tests.families.unet_miniature import make_model

MakeWorkshop = Callable[[str], Workshop]
STEPS, STOP = 4, 2
BASE: Values = {("optimizer", "lr"): 1e-2, ("training", "batch_size"): 2, ("training", "accumulation_steps"): 2}
FLIPS: Values = {("augmentation", "flip"): True}
EVERYTHING: Values = {**FLIPS, ("augmentation", "color"): True, ("augmentation", "random_crop"): True}


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("sdxl") / "model", family="sdxl", size="nano")


@pytest.mark.parametrize("values", [pytest.param(FLIPS, marks=pytest.mark.ci), EVERYTHING], ids=["mirrored", "live"])
def test_stopped_it_ends_with_the_same_bytes(make_workshop: MakeWorkshop, values: Values) -> None:
    straight, pieces, plain = (make_workshop(name) for name in ("straight", "pieces", "plain"))
    assert straight.new(STEPS, {**BASE, **values}).exit_code == ExitCode.FINISHED
    assert pieces.new(STEPS, {**BASE, **values}, stop_after=STOP).exit_code == ExitCode.STOPPED
    assert pieces.go_on(None).exit_code == ExitCode.FINISHED
    assert pieces.losses() == straight.losses()
    assert pieces.digest() == straight.digest()
    assert plain.new(STEPS, BASE).exit_code == ExitCode.FINISHED
    assert plain.digest() != straight.digest()


@pytest.mark.parametrize("family", ["sd15", pytest.param("sdxl", marks=pytest.mark.ci)])
def test_live_pictures_have_the_bits_of_cached_pictures(
    make_workshop: MakeWorkshop, sdxl: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """Colours that are switched on but never drawn; then nothing that was encoded beforehand is taken."""
    own: Values = {**BASE, **FLIPS, **({("model", "base_model"): str(sdxl)} if family == "sdxl" else {})}
    cached, live = make_workshop("cached"), make_workshop("live")
    assert cached.new(3, own).exit_code == ExitCode.FINISHED
    monkeypatch.setattr(augmentation, "TINTED", 0.0)
    monkeypatch.setattr(pictures_module, "PLAIN", None)
    assert live.new(3, {**own, ("augmentation", "color"): True}).exit_code == ExitCode.FINISHED
    assert live.digest() == cached.digest()


def test_a_picture_that_changes_during_the_run_ends_it_and_nothing_is_lost(
    make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, broken = make_workshop("straight"), make_workshop("broken")
    values: Values = {**BASE, ("augmentation", "color"): True}
    assert straight.new(5, values).exit_code == ExitCode.FINISHED
    uses: list[Path] = []

    def changed(example: Example) -> np.ndarray:
        uses.append(example.image)
        if len(uses) > 3:
            raise BadFileError(example.image, "picture_changed")
        return pixels(example)

    with monkeypatch.context() as patch:
        patch.setattr(encode, "pixels", changed)
        outcome = broken.new(5, values)
    assert outcome.exit_code == ExitCode.BAD_INPUT
    done = [event.step for event in outcome.of(StepCompleted)]
    assert 1 <= len(done) < 5
    assert [event.step for event in outcome.of(CheckpointSaved)] == [0, len(done)]
    assert broken.go_on(None).exit_code == ExitCode.FINISHED
    assert broken.digest() == straight.digest()
