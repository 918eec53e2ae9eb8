"""Section `model`: the base model, and the arithmetic it is used in."""

from typing import Any, Literal

from pydantic import field_validator, model_validator

from lorasmith.config.fields import Section, option, recorded


class ModelConfig(Section):
    """The weights that a LoRA is trained on, and in which arithmetic."""

    base_model: str = option(
        "base-model", "", effect="identity", identified_by="base_sha256", common=True, holds="path"
    )
    """A diffusers folder, a single-file checkpoint, a hub id, or `demo`; "" until the user names a model."""
    family: str = recorded("auto", effect="identity", name="family")
    """A key of `families.FAMILIES`, once the model is recognised."""
    base_sha256: str = recorded("", effect="identity", name="base-model")
    """SHA-256 of the weights, once they are read."""
    vae: str = option("vae", "", effect="identity", identified_by="vae_sha256", holds="path")
    """A VAE in place of the base model's own, a file or a diffusers folder; "": none."""
    vae_sha256: str = recorded("", effect="identity", name="vae")
    """SHA-256 of that file, once it is read."""
    text_encoder: tuple[str, ...] = option(
        "text-encoder", (), effect="identity", identified_by="text_encoder_sha256", holds="path"
    )
    """Files or folders of text encoders beside a base model that is the denoiser alone, or in place of its own."""
    text_encoder_sha256: str = recorded("", effect="identity", name="text-encoder")
    """SHA-256 of that file, or of several, once they are read."""
    base_weights: tuple[str, ...] = option(
        "base-weights", (), effect="identity", identified_by="base_sha256", holds="path"
    )
    """LoRA files that are merged into the base model before training; their sum counts as the base model."""
    base_weights_multiplier: tuple[float, ...] = option(
        "base-weights-multiplier", (), effect="identity", identified_by="base_sha256"
    )
    """The weight of each of these LoRAs, in order; 1 for those without."""
    base_form: Literal["auto", "base", "distilled"] = option("base-form", "auto", effect="learning")
    """The form of a base model that its files do not tell; auto: by its name, else it is refused."""
    training_adapter: str = option(
        "training-adapter", "", effect="identity", identified_by="training_adapter_sha256", holds="path"
    )
    """A LoRA that is part of a distilled base model while it is trained, and of no exported file; "": none."""
    training_adapter_sha256: str = recorded("", effect="identity", name="training-adapter")
    """SHA-256 of that file, once it is read."""
    prediction: Literal["auto", "epsilon", "v_prediction", "flow"] = option("prediction", "auto", effect="identity")
    """Quantity that the denoiser predicts; auto: as the model's files state, once they are read."""
    zero_terminal_snr: Literal["auto", "on", "off"] = option("zero-terminal-snr", "auto", effect="learning")
    """The end of the noise schedule: pure noise (on) or nearly (off); auto: as the files of the model state."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option("precision", "auto", effect="learning")
    """Data type of the frozen weights and the arithmetic; the adapter is float32 always. auto: chosen by the device
    when the run is loaded."""
    base_precision: Literal["auto", "bf16", "fp8", "int8", "w8a8", "nf4"] = option(
        "base-precision", "auto", effect="learning"
    )
    """The form in which the frozen weights are kept: `engine.codecs`. The arithmetic stays in `precision`, but that of
    linear layers with `w8a8`. auto: as they are computed with."""
    base_offload: float = option("base-offload", 0.0, effect="learning", ge=0, le=1)
    """Share of the frozen weights that stays in the computer's memory and is brought to the device at need."""
    text_encoder_precision: Literal["auto", "fp8", "int8", "nf4"] = option(
        "text-encoder-precision", "auto", effect="learning"
    )
    """The form in which text encoders that are not trained are kept while captions are encoded: `engine.codecs`. auto:
    as they are loaded."""
    vae_tile_size: int = option("vae-tile-size", 0, effect="learning", ge=0, multiple_of=64)
    """Pixels on a side of the overlapping tiles in which larger pictures are encoded; 0: every picture whole."""
    clip_skip: int = option("clip-skip", 1, effect="learning", ge=1, le=12)
    """Layer of the text encoder that is used, counted from the end as the WebUI does: 1 is the last."""
    max_token_length: int = option("max-token-length", 75, effect="learning", ge=75, le=225, multiple_of=75)
    """Tokens of a caption that the text encoders see, in blocks of 75; more are cut off."""
    weighted_captions: bool = option("weighted-captions", False, effect="learning")
    """Whether `(x:1.3)` and `[x]` in a caption are weights, as in the WebUI, or text as any other."""

    @model_validator(mode="before")
    @classmethod
    def _with_fp8_base(cls, values: Any) -> Any:
        """Reads run.toml of runs that had the option --fp8-base."""
        if isinstance(values, dict) and "fp8_base" in values:
            values = dict(values)
            if values.pop("fp8_base") is True:
                values.setdefault("base_precision", "fp8")
        return values

    @field_validator("zero_terminal_snr", mode="before")
    @classmethod
    def _as_first_runs_recorded_it(cls, value: Any) -> Any:
        return ("off", "on")[value] if isinstance(value, bool) else value
