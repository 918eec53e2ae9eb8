"""Models whose weights are brought into another form as they are read: each family's are those of the model read whole
and brought into it then, and few tensors are in memory at a time."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lorasmith.engine.stored import FrozenStore, StoredConv2d, StoredLinear
from lorasmith.families import FAMILIES, load_family, stored_tensors
from lorasmith.families.base import ModelFamily
from lorasmith.families.loading import Destination
from lorasmith.families.recognize import recognize
from tests.engine.stored_models import store
from tests.families.tiny import MINIATURES

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelFamily:
    folder = MINIATURES[request.param](tmp_path_factory.mktemp(request.param) / "model")
    return load_family(recognize(folder))


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """All tensors, those of stored weights by their parts."""
    found = {name: value for name, value in [*model.named_parameters(), *model.named_buffers()]}
    for path, layer in model.named_modules():
        if isinstance(layer, StoredLinear | StoredConv2d):
            del found[f"{path}.weight"]
            found |= {f"{path}.weight.{part}": value for part, value in layer.storage.kept.items()}
    return found


@pytest.mark.parametrize("form", ["int8", "nf4"])
def test_it_is_that_of_the_whole_model(family: ModelFamily, form: str) -> None:
    text = family.traits.text_encoders

    def models(to: Destination) -> dict[str, nn.Module]:
        trained = text if family.traits.trains_text else ()
        loaded = family.load_models(trained=trained, dtype=torch.bfloat16, to=to)
        return {
            **loaded,
            **{f"{name} alone": family.load_encoders(to, only=(name,))[name] for name in text},
        }

    whole, read = models(CPU), models(partial(FrozenStore, form=form, device=CPU))
    assert whole.keys() == read.keys()
    for name, model in whole.items():
        store(model, form)
        expected, found = tensors_of(model), tensors_of(read[name])
        assert expected.keys() == found.keys() and any(key.endswith(".stored") for key in found)
        for key, value in expected.items():
            assert value.dtype == found[key].dtype and torch.equal(value.nan_to_num(), found[key].nan_to_num()), key
        assert not read[name].training and not any(value.requires_grad for value in read[name].parameters())


def test_few_tensors_are_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the model's size."""
    family = load_family(recognize(MINIATURES["flux1"](tmp_path / "model")))
    tensor_of, counts, ahead = stored_tensors._tensor, {"read": 0, "used": 0}, list[int]()

    def read(*arguments: Any) -> stored_tensors.Read:
        counts["read"] += 1
        return tensor_of(*arguments)

    class Forgetful:
        def __init__(self, model: nn.Module) -> None: ...

        def put(self, name: str, tensor: Tensor) -> None:
            time.sleep(0.001)  # readers get as far as they may
            ahead.append(counts["read"] - counts["used"])
            counts["used"] += 1

        def finish(self) -> None: ...

    monkeypatch.setattr(stored_tensors, "_tensor", read)
    family.load_models(trained=[], dtype=torch.bfloat16, to=Forgetful)
    assert counts["used"] > 10 * stored_tensors.AHEAD
    assert max(ahead) <= stored_tensors.AHEAD + 1
