import json
from pathlib import Path

import pytest

from lorasmith.errors import ConfigError
from lorasmith.other_trainers.reading import read_import
from tests.other_trainers.test_ai_toolkit import CONFIG
from tests.other_trainers.test_kohya_ss import FORM
from tests.other_trainers.test_onetrainer import NOW


@pytest.mark.parametrize(
    ("table", "trainer"), [(FORM, "kohya_ss"), (NOW, "OneTrainer"), (CONFIG, "ai-toolkit")], ids=["k", "o", "a"]
)
def test_each_is_recognised(tmp_path: Path, table: dict[str, object], trainer: str) -> None:
    path = tmp_path / "config.json"
    path.write_text("\ufeff" + json.dumps(table), encoding="utf-8")
    found = read_import(path, tmp_path)
    assert found.trainer == trainer and found.values["rank"] in (24, 32)


def test_yaml_and_lists_in_other_files(tmp_path: Path) -> None:
    yaml = tmp_path / "a.yaml"
    yaml.write_text("config: {name: x, process: [{network: {linear: 8}, train: {lr: 1e-3}, model: {name_or_path: m}}]}")
    assert read_import(yaml, tmp_path).values["lr"] == 1e-3
    older = {"training_method": "LORA", "model_type": "STABLE_DIFFUSION_15", "concept_file_name": "sub/concepts.json"}
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "concepts.json").write_text('[{"path": "cat"}]')
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "o.json").write_text(json.dumps(older))
    found = read_import(tmp_path / "presets" / "o.json", tmp_path / "elsewhere")
    assert found.subsets == [{"data": "cat", "repeats": 1}]


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("missing.json", None, "import_missing"),
        ("a.json", "{", "import_unreadable"),
        ("a.yaml", "a: [", "import_unreadable"),
        ("a.yaml", "!!python/object/apply:os.system [x]", "import_unreadable"),
        ("a.json", "[1]", "import_unknown"),
        ("a.json", '{"a": 1}', "import_unknown"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, name: str, text: str | None, code: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_import(tmp_path / name, tmp_path)
    assert caught.value.code == code
