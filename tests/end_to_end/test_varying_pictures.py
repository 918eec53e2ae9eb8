"""Runs whose pictures vary: the same bytes resumed, and whether pictures are encoded live or beforehand."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lorasmith.data import augmentation
from lorasmith.demo.miniature import make_model
from lorasmith.engine import pictures as pictures_module
from lorasmith.errors import ExitCode
from tests.end_to_end.workshop import Values, Workshop

MakeWorkshop = Callable[[str], Workshop]
STEPS = 12
BASE: Values = {("optimizer", "lr"): 1e-2, ("training", "batch_size"): 2, ("training", "accumulation_steps"): 2}
FLIPS: Values = {("augmentation", "flip"): True}
EVERYTHING: Values = {**FLIPS, ("augmentation", "color"): True, ("augmentation", "random_crop"): True}


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("sdxl") / "model", family="sdxl", size="nano")


@pytest.mark.parametrize("values", [FLIPS, EVERYTHING], ids=["mirrored", "live"])
def test_twelve_steps_are_five_and_seven(make_workshop: MakeWorkshop, values: Values) -> None:
    straight, pieces, plain = (make_workshop(name) for name in ("straight", "pieces", "plain"))
    assert straight.new(STEPS, {**BASE, **values}).exit_code == ExitCode.FINISHED
    assert pieces.new(STEPS, {**BASE, **values}, stop_after=5).exit_code == ExitCode.STOPPED
    assert pieces.go_on(None).exit_code == ExitCode.FINISHED
    assert pieces.losses() == straight.losses()
    assert pieces.digest() == straight.digest()
    assert plain.new(STEPS, BASE).exit_code == ExitCode.FINISHED
    assert plain.digest() != straight.digest()


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
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
