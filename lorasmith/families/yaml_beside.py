"""The `.yaml` of the same name beside a single file, by which Stable Diffusion 1.x models say that they were made for
v-prediction: `model.params.parameterization: "v"`. Plain values only: no tag of such a file is followed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from lorasmith.errors import ModelError
from lorasmith.families.headers import check_regular

MAX_YAML_BYTES = 2**20
MAX_DEPTH = 64

_PREDICTIONS: dict[str, Literal["epsilon", "v_prediction"]] = {"v": "v_prediction", "eps": "epsilon"}


def prediction_beside(path: Path) -> Literal["", "epsilon", "v_prediction"]:
    """What the `.yaml` beside `path` names; "" where there is none, or where it names nothing.

    Raises:
        ModelError: `model_yaml`, the file is there and cannot be read.
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
    if not isinstance(named, str) or named not in _PREDICTIONS:
        raise ModelError("model_prediction", path=str(file), found=f"parameterization {named!r}"[:80])
    return _PREDICTIONS[named]


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
