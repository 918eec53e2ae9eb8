"""Reads from a checkpoint which noise schedule and prediction its denoiser was trained with (DDPM families).

A single file names them by marker keys, embedded configs, ModelSpec metadata, or a `.yaml` of the same name beside it
(`model.params.parameterization: "v"`), of which plain values only are read: no tag in it is followed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lorasmith.errors import ModelError
from lorasmith.families.headers import check_regular
from lorasmith.families.weights import ModelFiles, NoiseSettings, PredictionSource

MAX_YAML_BYTES = 2**20
MAX_DEPTH = 64

_YAML_PREDICTIONS: dict[str, Literal["epsilon", "v_prediction"]] = {"v": "v_prediction", "eps": "epsilon"}
_MODELSPEC_PREDICTIONS = {"v": "v_prediction", "v-prediction": "v_prediction"}


def scheduler_config(
    files: ModelFiles, stored: Mapping[str, Any] | None, usual: Mapping[str, Any]
) -> tuple[dict[str, Any], PredictionSource]:
    """The config of the scheduler, and where its prediction was found.

    `stored` is the config that the checkpoint holds, `usual` the family's where it holds none. What is asked for counts
    first; for the prediction then the marker key `v_pred`, `stored`, the `.yaml` beside the file, ModelSpec metadata.

    Raises:
        ModelError: `model_yaml`, `model_prediction`, as `prediction_beside`.
    """
    config = dict(usual if stored is None else stored)
    if "ztsnr" in files.shapes:
        config["rescale_betas_zero_snr"] = True
    if files.requested.zero_terminal_snr != "auto":
        config["rescale_betas_zero_snr"] = files.requested.zero_terminal_snr == "on"
    if files.requested.prediction != "auto":
        return {**config, "prediction_type": files.requested.prediction}, "asked"
    if "v_pred" in files.shapes:
        return {**config, "prediction_type": "v_prediction"}, "header_key"
    if stored is not None:
        return config, "scheduler_config"
    if not files.is_examined:
        return config, "default"
    if beside := prediction_beside(files.path):
        return {**config, "prediction_type": beside}, "yaml"
    named = files.metadata.get("modelspec.prediction_type", "").strip().lower()
    if named:
        return {**config, "prediction_type": _MODELSPEC_PREDICTIONS.get(named, named)}, "modelspec"
    return config, "default"


def noise_settings(files: ModelFiles, scheduler: Mapping[str, Any], source: PredictionSource) -> NoiseSettings:
    """The settings of the noise process in a scheduler's config.

    Raises:
        ModelError: `model_prediction`, a prediction or a schedule of betas that training does not know.
    """
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise ModelError("model_prediction", path=str(files.path), found=str(prediction))
    schedule = scheduler.get("beta_schedule", "linear")
    if schedule not in ("scaled_linear", "linear") or scheduler.get("trained_betas") is not None:
        raise ModelError("model_prediction", path=str(files.path), found=f"beta_schedule {schedule}")
    has_zero_snr = bool(scheduler.get("rescale_betas_zero_snr", False))
    return NoiseSettings(prediction, has_zero_snr, source, files.requested)


def prediction_beside(path: Path) -> Literal["", "epsilon", "v_prediction"]:
    """The prediction that the `.yaml` beside `path` names; "" where there is no such file, or it names none.

    Raises:
        ModelError: `model_yaml`, the file is there and cannot be read; `model_prediction`, its prediction is unknown.
    """
    file = path.with_suffix(".yaml")
    if not file.exists():
        return ""
    check_regular(file)
    model = _content(file).get("model")
    params = model.get("params") if isinstance(model, dict) else None
    named = params.get("parameterization") if isinstance(params, dict) else None
    if named is None:
        return ""
    if not isinstance(named, str) or named not in _YAML_PREDICTIONS:
        raise ModelError("model_prediction", path=str(file), found=f"parameterization {named!r}"[:80])
    return _YAML_PREDICTIONS[named]


def _content(file: Path) -> dict[str, Any]:
    import yaml

    try:
        if file.stat().st_size > MAX_YAML_BYTES:
            raise ModelError("model_yaml", path=str(file), reason=f"{file.stat().st_size} bytes")
        text = file.read_bytes().decode("utf-8-sig")
        events = yaml.parse(text, Loader=yaml.SafeLoader)
        depth = 0
        for event in events:
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH or isinstance(event, yaml.AliasEvent):  # an alias could make a giant of a line
                raise ModelError("model_yaml", path=str(file), reason="aliases, or too deep")
        content = yaml.safe_load(text)
    except OSError as error:
        raise ModelError("model_yaml", path=str(file), reason=error.strerror or str(error)) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ModelError("model_yaml", path=str(file), reason=" ".join(str(error).split())[:200]) from error
    return content if isinstance(content, dict) else {}
