"""Sections `loss` and `noise`: what training minimises, and the noise that it adds. docs/losses.md has the formulas."""

from typing import Literal, NamedTuple

from lorasmith.config.fields import Section, option


class Unused(NamedTuple):
    """An option that is set and has no effect, since another is not."""

    option: str
    needed: str  # as typed: "--noise-offset"


class LossConfig(Section):
    """The loss of an element, and its weight by the signal-to-noise ratio (SNR)."""

    loss_type: Literal["l2", "l1", "huber", "smooth_l1"] = option("loss-type", "l2", effect="learning")
    """The loss of an element's error: its square, its absolute value, or something between."""
    huber_schedule: Literal["constant", "exponential", "snr"] = option("huber-schedule", "snr", effect="learning")
    """The way in which the threshold of huber and smooth_l1 depends on the timestep."""
    huber_c: float = option("huber-c", 0.1, effect="learning", gt=0)
    """The threshold where there is most noise."""
    huber_scale: float = option("huber-scale", 1.0, effect="learning", gt=0)
    """Factor of the threshold; the snr schedule has none."""
    min_snr_gamma: float = option("min-snr-gamma", 0.0, effect="learning", ge=0)
    """An SNR beyond it weighs no more; 0: off."""
    debiased_estimation: bool = option("debiased-estimation-loss", False, effect="learning")
    """Whether the loss is divided by the square root of the SNR."""
    scale_v_pred: bool = option("scale-v-pred-loss-like-noise-pred", False, effect="learning")
    """Whether the loss of v-prediction is weighted as that of noise prediction."""
    v_pred_like: float = option("v-pred-like-loss", 0.0, effect="learning", ge=0)
    """Share of a loss weighted as that of v-prediction that is added to noise prediction; 0: off."""
    flow_weighting: Literal["none", "sigma-sqrt", "cosmap"] = option("flow-weighting", "none", effect="learning")
    """The weight of an example's loss by its noise level, of flow matching."""

    masked_loss: bool = option("masked-loss", False, effect="learning")
    """Whether the masks of `mask_folder` count."""
    mask_folder: str = option("conditioning-data-dir", "", effect="learning", holds="path", per_subset=True)
    """A folder of masks with the names of the pictures."""
    alpha_mask: bool = option("alpha-mask", False, effect="learning", per_subset=True)
    """Whether the alpha channel of a picture is its mask, where the folder has none."""
    prior_loss_weight: float = option("prior-loss-weight", 1.0, effect="learning", ge=0)
    """Factor of the loss of regularisation pictures."""

    @property
    def has_threshold(self) -> bool:
        return self.loss_type in ("huber", "smooth_l1")

    @property
    def has_mask_folder(self) -> bool:
        return self.masked_loss and self.mask_folder != ""

    @property
    def weightings(self) -> tuple[str, ...]:
        """The options that weight the loss by the SNR, of those that are set."""
        weightings = {
            "min-snr-gamma": self.min_snr_gamma,
            "scale-v-pred-loss-like-noise-pred": self.scale_v_pred,
            "v-pred-like-loss": self.v_pred_like,
            "debiased-estimation-loss": self.debiased_estimation,
        }
        return tuple(name for name, value in weightings.items() if value)

    @property
    def unused_options(self) -> tuple[Unused, ...]:
        unused = []
        if not self.has_threshold:
            defaults, needed = type(self)(), "--loss-type huber|smooth_l1"
            names = {"huber-schedule": "huber_schedule", "huber-c": "huber_c", "huber-scale": "huber_scale"}
            changed = [name for name, field in names.items() if getattr(self, field) != getattr(defaults, field)]
            unused += [Unused(name, needed) for name in changed]
        elif self.huber_schedule == "snr" and self.huber_scale != 1:
            unused.append(Unused("huber-scale", "--huber-schedule constant|exponential"))
        if self.mask_folder and not self.masked_loss:
            unused.append(Unused("conditioning-data-dir", "--masked-loss"))
        return tuple(unused)


class NoiseConfig(Section):
    """Changes to the noise that latents get in training, and to the timesteps."""

    offset: float = option("noise-offset", 0.0, effect="learning", ge=0)
    """Standard deviation of a shift of every channel; 0: off."""
    has_random_offset: bool = option("noise-offset-random-strength", False, effect="learning")
    """Whether the offset varies evenly between 0 and `offset`, from micro-batch to micro-batch."""
    adaptive_scale: float | None = option("adaptive-noise-scale", None, effect="learning")
    """The offset grows by this times the absolute mean of each channel of the latents; may be negative."""
    multires_iterations: int = option("multires-noise-iterations", 0, effect="learning", ge=0, le=64)
    """Levels of multi-resolution (pyramid) noise; 0: off."""
    multires_discount: float = option("multires-noise-discount", 0.3, effect="learning", gt=0)
    """Strength of a level, as a share of the level before."""
    perturbation: float = option("ip-noise-gamma", 0.0, effect="learning", ge=0)
    """Standard deviation of noise on the denoiser's input that is no part of its target; 0: off."""
    has_random_perturbation: bool = option("ip-noise-gamma-random-strength", False, effect="learning")
    """Whether the perturbation varies evenly between 0 and `perturbation`, from micro-batch to micro-batch."""
    min_timestep: int = option("min-timestep", 0, effect="learning", ge=0)
    """The first timestep that is trained."""
    max_timestep: int | None = option("max-timestep", None, effect="learning", ge=0)
    """The timestep before which training ends; the only one where it equals `min_timestep`. None: trains all."""
    density: Literal["auto", "uniform", "logit-normal", "mode", "cosmap"] = option(
        "timestep-density", "auto", effect="learning"
    )
    """The density of noise levels that are trained, of flow matching; auto: the family's own."""
    logit_mean: float = option("logit-mean", 0.0, effect="learning")
    """Mean of the normal numbers of which logit-normal levels are the sigmoids."""
    logit_std: float = option("logit-std", 1.0, effect="learning", gt=0)
    """Their standard deviation."""
    mode_scale: float = option("mode-scale", 1.29, effect="learning", ge=-1, le=1.75)
    """The weight of the middle in the density mode; below 0 that of both ends."""
    shift: float | None = option("timestep-shift", None, effect="learning", gt=0)
    """The factor that moves the levels towards noise, of flow matching; 1: none. None: the family's own."""

    @property
    def unused_options(self) -> tuple[Unused, ...]:
        unused = []
        if self.has_random_offset and not self.offset:
            unused.append(Unused("noise-offset-random-strength", "--noise-offset"))
        if self.multires_discount != type(self)().multires_discount and not self.multires_iterations:
            unused.append(Unused("multires-noise-discount", "--multires-noise-iterations"))
        if self.has_random_perturbation and not self.perturbation:
            unused.append(Unused("ip-noise-gamma-random-strength", "--ip-noise-gamma"))
        for field, density in (("logit_mean", "logit-normal"), ("logit_std", "logit-normal"), ("mode_scale", "mode")):
            if getattr(self, field) != getattr(type(self)(), field) and self.density != density:
                unused.append(Unused(field.replace("_", "-"), f"--timestep-density {density}"))
        return tuple(unused)

    @property
    def flow_options(self) -> tuple[str, ...]:
        """The options of flow matching that are set."""
        density = ("timestep-density",) if self.density != "auto" else ()
        return density if self.shift is None else (*density, "timestep-shift")
