"""Each setting of loss and noise reaches what computes them."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from lorasmith.config.sections import LossConfig, NoiseConfig
from lorasmith.diffusion import losses, weightings
from lorasmith.diffusion.densities import UNIFORM, CosMap, Density, LogitNormal, Mode
from lorasmith.diffusion.draw import NoiseOptions
from lorasmith.diffusion.flow import FixedShift, FlowMatching, Shift, ShiftByTokens
from lorasmith.diffusion.objective import MSE, Objective, Weight, squared_error
from lorasmith.diffusion.process import DdpmProcess, Prediction
from lorasmith.errors import ConfigError
from lorasmith.exporting.objective_metadata import ObjectiveFacts
from lorasmith.session.objective import (
    noise_options,
    objective_facts,
    objective_identity,
    objective_of,
    trained_process,
)
from tests.diffusion.noising import noised

C = 0.2
HUBER: dict[str, tuple[dict[str, Any], losses.Threshold]] = {
    "constant": ({"huber_schedule": "constant", "huber_scale": 3.0}, losses.constant_threshold(C, 3.0)),
    "exponential": ({"huber_schedule": "exponential", "huber_scale": 3.0}, losses.exponential_threshold(C, 3.0)),
    "snr": ({}, losses.snr_threshold(C)),
}


def of(objective: Objective) -> list[float]:
    where = replace(noised((5, 400, 999), width=2), sigma=torch.tensor([0.1, 0.5, 0.9]))
    return objective.losses(torch.tensor([0.1, 2.0]).expand(3, 1, 1, 2), where).tolist()


def test_the_default_is_the_plain_mean_squared_error() -> None:
    assert objective_of(LossConfig(), "epsilon") == MSE


@pytest.mark.parametrize("schedule", HUBER)
@pytest.mark.parametrize(("kind", "loss"), [("huber", losses.pseudo_huber), ("smooth_l1", losses.smooth_l1)])
def test_losses_with_a_threshold(kind: Any, loss: Any, schedule: str) -> None:
    given, threshold = HUBER[schedule]
    config = LossConfig(loss_type=kind, huber_c=C, **given)
    assert of(objective_of(config, "epsilon")) == of(Objective(loss(threshold)))


def test_the_absolute_error() -> None:
    assert of(objective_of(LossConfig(loss_type="l1"), "epsilon")) == of(Objective(losses.absolute_error))


@pytest.mark.parametrize(
    ("given", "prediction", "weights"),
    [
        ({"min_snr_gamma": 5.0}, "epsilon", [weightings.min_snr(5.0, "epsilon")]),
        ({"min_snr_gamma": 5.0}, "v_prediction", [weightings.min_snr(5.0, "v_prediction")]),
        ({"debiased_estimation": True}, "epsilon", [weightings.debiased_estimation("epsilon")]),
        ({"debiased_estimation": True}, "v_prediction", [weightings.debiased_estimation("v_prediction")]),
        ({"scale_v_pred": True}, "v_prediction", [weightings.like_noise_prediction]),
        ({"flow_weighting": "sigma-sqrt"}, "flow", [weightings.inverse_square]),
        ({"flow_weighting": "cosmap"}, "flow", [weightings.cosmap]),
        ({"v_pred_like": 0.5}, "epsilon", [weightings.like_v_prediction(0.5)]),
        (
            {"min_snr_gamma": 1.0, "v_pred_like": 0.5, "debiased_estimation": True},
            "epsilon",
            [
                weightings.min_snr(1.0, "epsilon"),
                weightings.like_v_prediction(0.5),
                weightings.debiased_estimation("epsilon"),
            ],
        ),
    ],
)
def test_weightings(given: dict[str, Any], prediction: Prediction, weights: list[Weight]) -> None:
    expected = Objective(squared_error, tuple(weights))
    assert of(objective_of(LossConfig(**given), prediction)) == of(expected) != of(MSE)


NOISE = NoiseConfig(
    offset=0.1,
    has_random_offset=True,
    adaptive_scale=0.2,
    multires_iterations=6,
    multires_discount=0.4,
    perturbation=0.5,
    has_random_perturbation=True,
    min_timestep=10,
)


def test_noise() -> None:
    assert noise_options(NoiseConfig()) == NoiseOptions()
    assert noise_options(NOISE) == NoiseOptions(0.1, True, 0.2, 6, 0.4, 0.5, True)


def test_facts_for_the_metadata() -> None:
    process = DdpmProcess(torch.linspace(0.9, 0.1, 50), "epsilon")
    assert objective_facts(LossConfig(), NoiseConfig(), process) == ObjectiveFacts()
    assert objective_facts(LossConfig(), NoiseConfig(max_timestep=50), process) == ObjectiveFacts()
    loss = LossConfig(loss_type="huber", huber_c=0.3, min_snr_gamma=5, debiased_estimation=True, prior_loss_weight=0.5)
    assert objective_facts(loss, NOISE, process) == ObjectiveFacts(
        loss_type="huber",
        huber=("snr", 0.3, 1.0),
        min_snr_gamma=5.0,
        debiased_estimation=True,
        regularisation_weight=0.5,
        noise_offset=0.1,
        has_random_offset=True,
        adaptive_noise_scale=0.2,
        multires_iterations=6,
        multires_discount=0.4,
        perturbation=0.5,
        has_random_perturbation=True,
        timesteps=(10, 50),
    )


def trained(**given: Any) -> range:
    table = torch.linspace(0.9, 0.1, 50)
    process = trained_process(DdpmProcess(table, "epsilon"), NoiseConfig(**given))
    assert isinstance(process, DdpmProcess)
    return process.trained


def test_timesteps() -> None:
    assert trained() == range(50)
    assert trained(min_timestep=20) == range(20, 50)
    assert trained(max_timestep=50) == range(50)
    assert trained(min_timestep=7, max_timestep=7) == range(7, 8)  # as sd-scripts


FLOW = FlowMatching(LogitNormal(0.3, 0.7), ShiftByTokens(256, 6400, 0.5, 1.15), FixedShift(5.0))


@pytest.mark.parametrize(
    ("given", "density", "shift"),
    [
        ({}, FLOW.density, FLOW.training_shift),
        ({"density": "uniform", "shift": 1.0}, UNIFORM, FixedShift(1.0)),
        ({"density": "logit-normal", "logit_mean": 0.5, "logit_std": 2.0}, LogitNormal(0.5, 2.0), FLOW.training_shift),
        ({"density": "mode", "mode_scale": -0.5}, Mode(-0.5), FLOW.training_shift),
        ({"density": "cosmap", "shift": 3.0}, CosMap(), FixedShift(3.0)),
    ],
)
def test_noise_levels_of_flow_matching(given: dict[str, Any], density: Density, shift: Shift) -> None:
    """They are trained as asked, and sampled as the family is."""
    process = trained_process(FLOW, NoiseConfig(**given, min_timestep=100))
    assert process == FlowMatching(density, shift, FixedShift(5.0), bounds=(0.1, 1.0))


def test_facts_of_flow_matching() -> None:
    noise = NoiseConfig(density="logit-normal", logit_mean=0.5, shift=3.0)
    found = objective_facts(LossConfig(flow_weighting="cosmap"), noise, FLOW)
    assert found == ObjectiveFacts(flow_weighting="cosmap", density="logit-normal(0.5, 1.0)", shift=3.0)


@pytest.mark.parametrize(("first", "stop"), [(0, 51), (50, None), (50, 50)])
def test_timesteps_that_are_not_there(first: int, stop: int | None) -> None:
    with pytest.raises(ConfigError, match="timestep_range"):
        trained(min_timestep=first, max_timestep=stop)


def test_losses_are_comparable_where_their_settings_are_the_same() -> None:
    assert objective_identity(LossConfig(prior_loss_weight=0.5, mask_folder="x"), NoiseConfig()) == ""
    others = [LossConfig(loss_type="l1"), LossConfig(min_snr_gamma=5), LossConfig(alpha_mask=True)]
    found = [objective_identity(loss, NoiseConfig()) for loss in others]
    assert len({"", *found, objective_identity(LossConfig(), NOISE), objective_identity(others[0], NOISE)}) == 6
