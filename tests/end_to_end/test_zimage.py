"""Z-Image's second files, in which q, k and v are one layer."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from lorasmith.config import ExportConfig
from lorasmith.errors import ExitCode
from lorasmith.runs.naming import FileNames
from tests.end_to_end.test_flow_families import SETTINGS
from tests.end_to_end.workshop import Workshop
from tests.families.zimage.miniature import make_model

pytestmark = pytest.mark.ci  # in the default tests Krea 2 stands for the families of flow matching


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("zimage") / "model")


@pytest.mark.parametrize(("form", "tensors"), [("kohya", 3), ("comfyui", 2)])
def test_a_second_file_has_q_k_and_v_as_one_layer(workshop: Workshop, form: str, tensors: int) -> None:
    """In each of two blocks: two matrices, and kohya's alpha."""
    assert workshop.new(1, {**SETTINGS, ("export", "format"): form}).exit_code == ExitCode.FINISHED
    names = FileNames(workshop.run, ExportConfig(format=form))
    assert names.other is not None
    joined = [
        key for key in load_file(names.other) if "attention.qkv." in key.replace("attention_qkv", "attention.qkv")
    ]
    assert len(joined) == 2 * tensors
