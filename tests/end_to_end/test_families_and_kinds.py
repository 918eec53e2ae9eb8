"""Kinds of adapters on the families that came after SD 1.x: bytes, and the effect of the exported file.

SD 1.x with every kind is in test_adapter_kinds, LoRA on every family in the families' own files.
"""

import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lorasmith.adapters import ADAPTERS, adapter_kind
from lorasmith.adapters.base import LayerSettings, by_layer
from lorasmith.diffusion.process import apply_noise
from lorasmith.engine.step import numbers_at
from lorasmith.errors import ExitCode
from lorasmith.evaluation import evaluator
from lorasmith.exporting.names import from_file
from lorasmith.families import FAMILIES
from lorasmith.session.loaded import LoadedRun
from lorasmith.session.name_tables import name_table
from tests.end_to_end.test_adapter_kinds import settings
from tests.end_to_end.workshop import Values, Workshop, load, stage
from tests.evaluation.few_steps import sample_in
from tests.families.tiny import MINIATURES
from tests.faults.forked import in_child

MakeWorkshop = Callable[[str], Workshop]
UNETS = ("sd2", "sdxl")
TRANSFORMERS = tuple(family for family in FAMILIES if family not in ("sd15", *UNETS))
# Every family with one kind, every kind with some families; the families with a UNet are in test_option_pairs.
ROWS = tuple((family, tuple(ADAPTERS)[number % len(ADAPTERS)]) for number, family in enumerate(TRANSFORMERS))


pytestmark = pytest.mark.ci


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {family: MINIATURES[family](folder / family) for family in (*UNETS, *TRANSFORMERS)}


def settings_for(family: str, kind: str, model: Path, precision: str) -> Values:
    """Small pictures; convolutions and text encoders where the family trains them."""
    values: Values = {**settings(kind), ("model", "base_model"): str(model), ("model", "precision"): precision}
    if family in UNETS:
        return {**values, ("adapter", "conv_rank"): 2}
    return {**values, ("adapter", "train_text_encoder"): False, ("dataset", "resolution"): 64}


@pytest.mark.parametrize(("family", "kind"), ROWS)
def test_stopped_and_watched_it_ends_with_the_same_bytes(
    models: Mapping[str, Path],
    make_workshop: MakeWorkshop,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    kind: str,
) -> None:
    """P1, P2 and P3: one run is stopped, saved, exported and evaluated at every step; the other is left alone."""
    monkeypatch.setattr(evaluator, "MAX_SHARE", 1.0)
    sample_in(monkeypatch, 2)
    values: Values = {**settings_for(family, kind, models[family], "fp32"), ("dataset", "hold_out"): 1}
    straight, pieces = make_workshop("straight"), make_workshop("pieces")
    assert straight.new(4, values).exit_code == ExitCode.FINISHED
    watched: Values = {("evaluation", "every"): 1, ("evaluation", "examples"): 1, ("cadence", "save_every"): 1}
    assert pieces.new(4, {**values, **watched}, stop_after=2).exit_code == ExitCode.STOPPED
    assert pieces.go_on(None).exit_code == ExitCode.FINISHED
    assert list(straight.losses()) == [1, 2, 3, 4]
    assert straight.optimizer_steps() == {4}
    assert pieces.losses() == straight.losses()
    assert pieces.digest() == straight.digest()


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_a_worker_that_is_killed_changes_no_byte(
    models: Mapping[str, Path], make_workshop: MakeWorkshop, family: str
) -> None:
    """P3, in the other precision."""
    values = {**settings_for(family, "lora", models[family], "bf16"), ("cadence", "save_every"): 1}
    straight, killed = make_workshop("straight"), make_workshop("killed")
    assert straight.new(4, values).exit_code == ExitCode.FINISHED
    assert in_child(lambda: int(killed.new(4, values).exit_code), fault="step.computed:3:kill") == -signal.SIGKILL
    assert killed.states()[0] == 2
    assert killed.go_on(None).exit_code == ExitCode.FINISHED
    assert killed.losses() == straight.losses()
    assert killed.digest() == straight.digest()


@pytest.mark.parametrize("family", [*UNETS, *TRANSFORMERS])
@pytest.mark.parametrize("kind", ADAPTERS)
def test_the_file_merged_by_its_formula_has_the_effect_of_training(
    models: Mapping[str, Path], make_workshop: MakeWorkshop, family: str, kind: str
) -> None:
    """Within 1e-5 of the output's deviation; without a module of the UNet or of a text encoder it is larger."""
    values = {**settings_for(family, kind, models[family], "fp32"), ("adapter", "dropout"): 0.0}
    workshop = make_workshop("run")
    assert workshop.new(3, values).exit_code == ExitCode.FINISHED
    start = workshop.start_new(3, values)
    stage(start)
    loaded = load(start.run, stop_at=4, resume=workshop.state_folder())
    loaded.state.adapter.set_training(False)
    trained = _predicted(loaded, loaded.context.models)

    own = loaded.context.family
    text = own.traits.text_encoders if own.traits.trains_text else ()
    merged = own.load_models(trained=text, dtype=torch.float32, to=torch.device("cpu"))
    stored = from_file(load_file(workshop.run.export("last")), adapter_kind(kind), name_table(family))
    changes = _merge(loaded, merged, kind, stored)
    tolerance = 1e-5 * float(trained.std())
    assert float((_predicted(loaded, merged) - trained).abs().max()) <= tolerance
    first_of_text = [name for name in changes if name.startswith("text_encoder")][:1]
    assert bool(first_of_text) == bool(text)
    for name in (next(iter(changes)), *first_of_text):
        weight, change = changes[name]
        weight.sub_(change)
        assert float((_predicted(loaded, merged) - trained).abs().max()) > tolerance
        weight.add_(change)


def _merge(
    loaded: LoadedRun, models: Mapping[str, nn.Module], kind: str, stored: dict[str, Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Adds the changes of a file's layers to the weights; each weight and its change, by target."""
    layers, formula = by_layer(stored, adapter_kind(kind)), adapter_kind(kind)
    changes = {}
    for target in loaded.context.family.target_modules(models):
        if target.name in layers:
            weight = target.module.get_parameter("weight").data
            rank = loaded.state.adapter.layers[target.name].settings.rank
            change = formula.delta(weight.clone(), layers[target.name], LayerSettings(rank, rank))
            weight.add_(change)
            changes[target.name] = weight, change
    assert changes.keys() == layers.keys() == loaded.state.adapter.layers.keys()
    return changes


def _predicted(loaded: LoadedRun, models: Mapping[str, nn.Module]) -> Tensor:
    context: Any = replace(loaded.context, models=models)
    _, batch = context.batches.at(4, 0)
    noised = apply_noise(context.process, batch.latents, numbers_at(loaded.context, 1, 0, batch))
    with torch.no_grad():
        conditioning = context.family.conditioning(models, batch.inputs)
        predicted: Tensor = context.family.predict(models, noised.noisy_latents, noised.timesteps, conditioning)
    return predicted
