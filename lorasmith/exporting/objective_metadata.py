"""The metadata about loss and noise, under the keys and in the spelling of sd-scripts.

Keys that readers do not need are written only where their setting counts: files of plain runs stay the same.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveFacts:
    """The loss that training minimised and the noise that it added."""

    loss_type: str = "l2"  # l2, l1, huber, smooth_l1
    huber: tuple[str, float, float] | None = None  # schedule, c and scale; None: the loss has no threshold
    min_snr_gamma: float = 0.0  # here and below 0: off
    debiased_estimation: bool = False
    regularisation_weight: float = 1.0
    noise_offset: float = 0.0
    has_random_offset: bool = False
    adaptive_noise_scale: float = 0.0
    multires_iterations: int = 0
    multires_discount: float = 0.3
    perturbation: float = 0.0
    has_random_perturbation: bool = False
    timesteps: tuple[int, int] | None = None  # the first that was trained, and the one behind the last; None: all
    flow_weighting: str = "none"  # by the noise level
    density: str = ""  # of noise levels; "": the family's own
    shift: float | None = None  # of noise levels; None: the family's own


def objective_metadata(facts: ObjectiveFacts) -> dict[str, str]:
    """The `ss_*` keys."""
    metadata = {
        "ss_noise_offset": _given(facts.noise_offset),
        "ss_multires_noise_iterations": _given(facts.multires_iterations),
        "ss_adaptive_noise_scale": _given(facts.adaptive_noise_scale),
        "ss_min_snr_gamma": _given(facts.min_snr_gamma),
        "ss_ip_noise_gamma": _given(facts.perturbation),
        "ss_debiased_estimation": str(facts.debiased_estimation),
        "ss_loss_type": facts.loss_type,
    }
    if facts.noise_offset:
        metadata["ss_noise_offset_random_strength"] = str(facts.has_random_offset)
    if facts.multires_iterations:
        metadata["ss_multires_noise_discount"] = str(facts.multires_discount)
    if facts.perturbation:
        metadata["ss_ip_noise_gamma_random_strength"] = str(facts.has_random_perturbation)
    if facts.regularisation_weight != 1:
        metadata["ss_prior_loss_weight"] = str(facts.regularisation_weight)
    if facts.huber is not None:
        names = ("ss_huber_schedule", "ss_huber_c", "ss_huber_scale")
        metadata |= dict(zip(names, map(str, facts.huber), strict=True))
    if facts.flow_weighting != "none":
        metadata["ss_weighting_scheme"] = facts.flow_weighting.replace("-", "_")
    if facts.density:
        metadata["ss_timestep_sampling"] = facts.density
    if facts.shift is not None:
        metadata["ss_discrete_flow_shift"] = str(facts.shift)
    return metadata


def timestep_range(facts: ObjectiveFacts) -> dict[str, str]:
    """`modelspec.timestep_range`, where not all timesteps were trained."""
    return {} if facts.timesteps is None else {"modelspec.timestep_range": "{},{}".format(*facts.timesteps)}


def _given(value: float) -> str:
    return str(value) if value else "None"
