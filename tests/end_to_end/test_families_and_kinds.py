"""Kinds of adapters on the families that came after SD 1.x: the effect of the exported file.

Their bytes are in test_option_pairs. SD 1.x with every kind is in test_adapter_kinds, LoRA on every family in the
families' own files.
"""

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
from lorasmith.demo.miniature import make_model
from lorasmith.diffusion.process import apply_noise
from lorasmith.engine.step import numbers_at
from lorasmith.errors import ExitCode
from lorasmith.exporting.names import from_file
from lorasmith.session.loaded import LoadedRun
from lorasmith.session.name_tables import name_table
from tests.end_to_end.test_adapter_kinds import settings
from tests.end_to_end.workshop import Workshop, load, stage

MakeWorkshop = Callable[[str], Workshop]
FAMILIES = ("sd2", "sdxl")
RANK = 4  # of `settings`

pytestmark = pytest.mark.ci


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {family: make_model(folder / family, family=family, size="nano") for family in FAMILIES}  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ADAPTERS)
def test_the_file_merged_by_its_formula_has_the_effect_of_training(
    models: Mapping[str, Path], make_workshop: MakeWorkshop, family: str, kind: str
) -> None:
    """Within 1e-5 of the output's deviation; without a module of the UNet or of a text encoder it is larger."""
    values = {**settings(kind), ("model", "base_model"): str(models[family]), ("model", "precision"): "fp32"}
    values |= {("adapter", "conv_rank"): 2, ("adapter", "dropout"): 0.0}
    workshop = make_workshop("run")
    assert workshop.new(3, values).exit_code == ExitCode.FINISHED
    start = workshop.start_new(3, values)
    stage(start)
    loaded = load(start.run, stop_at=4, resume=workshop.state_folder())
    loaded.state.adapter.set_training(False)
    trained = _predicted(loaded, loaded.context.models)

    own = loaded.context.family
    merged = own.load_models(trained=own.traits.text_encoders, dtype=torch.float32, device=torch.device("cpu"))
    stored = from_file(load_file(workshop.run.export("last")), adapter_kind(kind), name_table(family))
    changes = _merge(loaded, merged, kind, stored)
    tolerance = 1e-5 * float(trained.std())
    assert float((_predicted(loaded, merged) - trained).abs().max()) <= tolerance
    for name in (next(iter(changes)), next(name for name in changes if name.startswith("text_encoder"))):
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
