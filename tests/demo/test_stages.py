from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lorasmith.demo import stages
from lorasmith.demo.stages import Stage, run_stage


def _stage(steps: int = 30, ema_decay: float = 0.9, *, killed_at: int = 0) -> Stage:
    torch.manual_seed(0)
    modules = nn.ModuleDict({"one": nn.Linear(4, 4), "slow": nn.Linear(4, 1)})

    def loss_at(step: int) -> Tensor:
        if step == killed_at:
            raise KeyboardInterrupt
        given = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        return (modules["slow"](modules["one"](given).tanh()) - given.sum(1, keepdim=True)).square().mean()

    return Stage("test", modules, loss_at, steps=steps, lr=1e-2, lr_factors={"slow": 0.1}, ema_decay=ema_decay)


def test_interrupted_anywhere_it_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "_SAVE_EVERY", 7)
    whole = run_stage(_stage(), _folder(tmp_path, "whole"))
    for killed_at in (3, 14, 29):
        with pytest.raises(KeyboardInterrupt):
            run_stage(_stage(killed_at=killed_at), _folder(tmp_path, "parts"))
    assert torch.load(tmp_path / "parts" / "test.pt", weights_only=True)["step"] == 28
    parts = run_stage(_stage(), tmp_path / "parts")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, parts.state_dict()[name]), name
    assert not list(tmp_path.rglob("*.half"))


def test_it_learns_and_gives_back_the_average(tmp_path: Path) -> None:
    stage = _stage(steps=200)
    before = stage.loss_at(1000).item()
    result = run_stage(stage, tmp_path)
    assert stage.loss_at(1000).item() < 0.5 * before
    stored = torch.load(tmp_path / "test.pt", weights_only=True)
    assert stored["step"] == 200
    assert torch.equal(stored["average"]["one.weight"], result.state_dict()["one.weight"])
    assert not torch.equal(stored["modules"]["one.weight"], result.state_dict()["one.weight"])


def test_a_module_with_a_factor_learns_slower(tmp_path: Path) -> None:
    stage = _stage(steps=1, ema_decay=0.0)
    begun = {name: tensor.clone() for name, tensor in stage.modules.state_dict().items()}
    after = run_stage(stage, tmp_path).state_dict()
    moved = {name: (after[f"{name}.weight"] - begun[f"{name}.weight"]).abs().max().item() for name in ("one", "slow")}
    assert moved["slow"] == pytest.approx(0.1 * moved["one"], rel=1e-2)


def _folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir(exist_ok=True)
    return folder
