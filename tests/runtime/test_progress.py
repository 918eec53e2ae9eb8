"""How far a run has come, and the state that a start continues from."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from lorasmith.config import Request
from lorasmith.errors import ConfigError, NoStateError
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.states import find_states
from lorasmith.runtime.preflight import Start, continued_run
from lorasmith.runtime.progress import progress_of
from tests.end_to_end.workshop import Workshop


def go_on(done: Workshop, **how: Any) -> Start:
    from_state = how.pop("from_state", "")
    return continued_run(done.run, {}, Request(**how), from_state=from_state, here=done.folder)


def test_where_a_run_stands(done: Workshop) -> None:
    now = progress_of(done.run)
    assert (now.done, now.stop_at, now.state.step, now.steps_left) == (4, 4, 4, 0)


@pytest.mark.parametrize("name", ["step", "name", "path"])
def test_going_on_from_a_named_state(done: Workshop, name: str) -> None:
    """N counts from it; without N what it owes."""
    state = next(state.path for state in find_states(done.run.root)[0] if state.step == 2)
    wish = {"step": "2", "name": state.name, "path": str(state)}[name]
    start = go_on(done, from_state=wish, steps=1)
    assert (start.first_step, start.stop_at, start.resume) == (2, 3, state)
    assert go_on(done, from_state=wish).stop_at == 4


def test_steps_of_a_damaged_state_are_done_again_on_top(done: Workshop) -> None:
    file = done.state_folder() / "optimizer.pt"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    try:
        now = progress_of(done.run)
        start = go_on(done, steps=3)
        owed = go_on(done)
    finally:
        file.write_bytes(whole)
    assert (now.done, now.state.step, now.steps_left) == (4, 2, 2)
    assert (start.first_step, start.stop_at) == (2, 7)
    assert (owed.first_step, owed.stop_at) == (2, 4)


def test_a_manifest_that_lies_does_not_count(done: Workshop) -> None:
    """A damaged state may say any step: only what the ledger recorded and what can be used count."""
    file = done.state_folder() / "manifest.json"
    whole = file.read_text()
    assert '"step": 4' in whole
    file.write_text(whole.replace('"step": 4', '"step": 4000'))
    try:
        assert progress_of(done.run).done == 4
    finally:
        file.write_text(whole)


def test_without_a_ledger_the_states_tell(done: Workshop) -> None:
    aside = done.run.ledger.rename(done.run.root / "aside")
    try:
        now = progress_of(done.run)
        assert (now.done, now.stop_at, now.steps_left) == (4, 4, 0)
        with pytest.raises(ConfigError, match="nothing_owed"):
            go_on(done)
    finally:
        aside.rename(done.run.ledger)


def test_no_run(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(NoStateError) as caught:
            progress_of(RunFolder(folder))
        assert caught.value.code == "no_run"


def test_no_run_but_the_lora_of_another_trainer(tmp_path: Path) -> None:
    layer = "lora_unet_mid_block_attentions_0_proj_in"
    pair = {f"{layer}.lora_down.weight": np.ones((2, 4)), f"{layer}.lora_up.weight": np.ones((4, 2))}
    for age, (name, tensors) in enumerate({"model": {"weight": np.ones(2)}, "newer": pair, "older": pair}.items()):
        save_file(tensors, tmp_path / f"{name}.safetensors")
        os.utime(tmp_path / f"{name}.safetensors", (9 - age, 9 - age))
    with pytest.raises(NoStateError) as caught:
        progress_of(RunFolder(tmp_path))
    assert (caught.value.code, Path(caught.value.fields["lora"]).stem) == ("no_run_but_lora", "newer")
