"""The folder from which a tokenizer is read: the model's own, what its file states, or the usual."""

from dataclasses import replace
from pathlib import Path

from lorasmith.families.recognize import recognize
from lorasmith.families.tokenizer_files import tokenizer_folder
from tests.families.anima.miniature import make_model, make_split


def test_the_models_own_files_come_first(tmp_path: Path) -> None:
    folder = recognize(make_model(tmp_path / "model"))
    with tokenizer_folder(folder, "text_encoder", dict) as found:
        assert found == tmp_path / "model" / "tokenizer"
    file = recognize(make_split(tmp_path / "model", tmp_path / "models"))
    with tokenizer_folder(file, "text_encoder", dict) as found:
        assert {one.name for one in found.iterdir()} == {"vocab.json", "merges.txt", "tokenizer_config.json"}
    usual = replace(file, configs={**file.configs, "tokenizer": None})
    with tokenizer_folder(usual, "text_encoder", lambda: {"inside/vocab.json": "{}"}) as found:
        assert (found / "vocab.json").read_text() == "{}"
    assert not found.exists()
