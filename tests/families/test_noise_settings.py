"""Where a checkpoint names its prediction, and `.yaml` files beside it that are trouble."""

import json
import os
import shutil
from pathlib import Path

import pytest

from lorasmith.errors import ModelError
from lorasmith.families.noise_settings import MAX_YAML_BYTES, prediction_beside
from lorasmith.families.recognize import recognize
from lorasmith.families.stored_tensors import examine_pickle
from lorasmith.families.weights import BaseWeights, NoiseRequest
from tests.families.tiny import edited

# The beginning of the file that Stable Diffusion 2's authors published, as SD 1.x models for v-prediction carry it.
PUBLISHED = """model:
  base_learning_rate: 1.0e-4
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    parameterization: "v"
    linear_start: 0.00085
"""


@pytest.mark.parametrize(
    ("text", "prediction"),
    [
        (PUBLISHED, "v_prediction"),
        (PUBLISHED.replace('"v"', "eps"), "epsilon"),
        (PUBLISHED.replace('    parameterization: "v"\n', ""), ""),
        ("\ufeff" + PUBLISHED.replace("\n", "\r\n"), "v_prediction"),
        ("", ""),
        ("- a list", ""),
        ("model: text", ""),
        ("other: {parameterization: v}", ""),
    ],
)
def test_what_the_file_names(tmp_path: Path, text: str, prediction: str) -> None:
    (tmp_path / "a.b.yaml").write_text(text, encoding="utf-8")
    assert prediction_beside(tmp_path / "a.b.safetensors") == prediction


def test_none_there(tmp_path: Path) -> None:
    assert prediction_beside(tmp_path / "a.safetensors") == ""


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"model: [", "model_yaml"),
        (b"model: {params: {parameterization: x0}}", "model_prediction"),
        (b"\xff\xfe", "model_yaml"),
        (b"model: !!python/object/apply:os.system ['touch ran']", "model_yaml"),
        (b"a: &a [x, x]\nmodel: [*a, *a]", "model_yaml"),
        (b"[" * 2000, "model_yaml"),
        (b"#" * (MAX_YAML_BYTES + 1), "model_yaml"),
    ],
)
def test_what_cannot_be_read_is_refused_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, code: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(ModelError) as caught:
        prediction_beside(tmp_path / "a.ckpt")
    assert (caught.value.code, caught.value.fields["path"]) == (code, str(tmp_path / "a.yaml"))
    assert not (tmp_path / "ran").exists()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    with pytest.raises(ModelError, match="model_irregular"):
        prediction_beside(tmp_path / "a.ckpt")


def summary(weights: BaseWeights) -> tuple[str, bool, str]:
    return weights.noise.prediction, weights.noise.zero_terminal_snr, weights.noise.source


def test_the_prediction_that_is_asked_for_counts_before_all_others(narrow, miniature, tmp_path: Path) -> None:
    for path in (narrow.single, narrow.ckpt, miniature.folder, miniature.single):
        weights = recognize(path, asked=NoiseRequest("v_prediction"))
        assert summary(weights) == ("v_prediction", False, "asked")
        assert weights.configs["scheduler"]["prediction_type"] == "v_prediction"
    (tmp_path / "x.yaml").write_text("model: [")
    path = Path(shutil.copy(narrow.single, tmp_path / "x.safetensors"))
    assert summary(recognize(path, asked=NoiseRequest("epsilon"))) == ("epsilon", False, "asked")


def test_zero_terminal_snr_that_is_asked_for_counts_before_the_marks(narrow, miniature, tmp_path: Path) -> None:
    def mark(shapes: dict[str, tuple[int, ...]], _: dict[str, str]) -> None:
        shapes.update({"v_pred": (0,), "ztsnr": (0,)})

    marked = edited(narrow.single, tmp_path / "x.safetensors", mark)
    assert summary(recognize(marked)) == ("v_prediction", True, "header_key")
    off, on = (NoiseRequest(zero_terminal_snr=asked) for asked in ("off", "on"))
    assert summary(recognize(marked, asked=off)) == ("v_prediction", False, "header_key")
    assert summary(recognize(miniature.folder, asked=on)) == ("epsilon", True, "scheduler_config")
    assert summary(examine_pickle(recognize(narrow.ckpt, asked=on))) == ("epsilon", True, "default")


def test_the_yaml_beside_a_single_file_names_the_prediction(narrow, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text('model:\n  params:\n    parameterization: "v"\n')
    assert summary(recognize(Path(shutil.copy(narrow.single, tmp_path / "x.safetensors")))) == (
        "v_prediction",
        False,
        "yaml",
    )


def scheduled(folder: Path, out: Path, **changes: object) -> Path:
    copy = shutil.copytree(folder, out)
    file = copy / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return copy


def test_prediction_of_a_folder(miniature, tmp_path: Path) -> None:
    changed = scheduled(miniature.folder, tmp_path / "v", prediction_type="v_prediction", rescale_betas_zero_snr=True)
    assert summary(recognize(changed)) == ("v_prediction", True, "scheduler_config")


@pytest.mark.parametrize(
    ("keys", "metadata", "expected"),
    [
        ([], {}, ("epsilon", False, "default")),
        (["v_pred"], {}, ("v_prediction", False, "header_key")),
        (["v_pred", "ztsnr"], {}, ("v_prediction", True, "header_key")),
        (["ztsnr"], {"modelspec.prediction_type": "v"}, ("v_prediction", True, "modelspec")),
        ([], {"modelspec.prediction_type": "v"}, ("v_prediction", False, "modelspec")),
        ([], {"modelspec.prediction_type": "v_prediction"}, ("v_prediction", False, "modelspec")),
        ([], {"modelspec.prediction_type": "epsilon"}, ("epsilon", False, "modelspec")),
        (["v_pred"], {"modelspec.prediction_type": "epsilon"}, ("v_prediction", False, "header_key")),
    ],
)
def test_prediction_of_a_single_file(
    narrow, tmp_path: Path, keys: list[str], metadata: dict[str, str], expected: tuple[str, bool, str]
) -> None:
    def mark(shapes: dict[str, tuple[int, ...]], into: dict[str, str]) -> None:
        shapes.update(dict.fromkeys(keys, (0,)))
        into.update(metadata)

    weights = recognize(edited(narrow.single, tmp_path / "x.safetensors", mark))
    assert summary(weights) == expected
    assert weights.configs["scheduler"]["prediction_type"] == expected[0]
