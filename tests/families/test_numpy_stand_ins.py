"""Checkpoints with numbers of numpy beside the weights are read; nothing of numpy is run for it."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lorasmith.errors import ModelError
from lorasmith.families.recognize import recognize
from lorasmith.families.stored_tensors import examine_pickle, load_pickle

BESIDE: dict[str, Any] = {
    "best": np.float64(0.25),
    "steps": np.int64(7),
    "half": np.float16(1),
    "yes": np.bool_(True),
    "callbacks": {"a": {"score": np.float32(1.5)}},
}


@pytest.mark.parametrize("is_zip", [True, False])
def test_plain_numbers_of_numpy_beside_the_weights(narrow, tmp_path: Path, is_zip: bool) -> None:
    stored = torch.load(narrow.ckpt, weights_only=True)
    file = tmp_path / "model.ckpt"
    torch.save({**stored, **BESIDE}, file, _use_new_zipfile_serialization=is_zip)
    check_refused(file)
    tensors = load_pickle(file)
    assert tensors.keys() == stored["state_dict"].keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in stored["state_dict"].items())
    assert examine_pickle(recognize(file)).family == "sd15"
    check_refused(file)


def check_refused(file: Path) -> None:
    """Without the stand-ins, before and after they were of use."""
    with pytest.raises(pickle.UnpicklingError), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")
        torch.load(file, weights_only=True)


class _Lies:
    """A number of numpy whose type claims to hold objects."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.float64(0).__reduce__()[0], (np.dtype([("a", "O")]), b"\x01" * 8)


def test_a_type_that_holds_objects_stays_a_stand_in(narrow, tmp_path: Path) -> None:
    stored = torch.load(narrow.ckpt, weights_only=True)
    torch.save({**stored, "x": _Lies()}, tmp_path / "model.ckpt")
    assert load_pickle(tmp_path / "model.ckpt").keys() == stored["state_dict"].keys()


def test_arrays_of_numpy_are_refused_as_before(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(3)}, "x": np.zeros(3)}, tmp_path / "model.ckpt")
    with pytest.raises(ModelError, match="model_pickle_refused"):
        load_pickle(tmp_path / "model.ckpt")
