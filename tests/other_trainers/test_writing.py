import tomllib
from pathlib import Path
from typing import Any

from lorasmith.config import load_flat_toml
from lorasmith.other_trainers.imported import Imported
from lorasmith.other_trainers.writing import MAX_SHOWN, shown, toml_text


def test_the_text_is_a_file_of_settings(tmp_path: Path) -> None:
    found = Imported("x", {"rank": 8, "optimizer_option": {"eps": 1e-8}}, [{"data": "C:\\cat", "repeats": 2}])
    path = tmp_path / "lorasmith.toml"
    path.write_text(toml_text(found, ["made by", "left out: a"]), encoding="utf-8")
    assert path.read_text().startswith("# made by\n# left out: a\n\n")
    assert tomllib.loads(path.read_text())["rank"] == 8
    assert load_flat_toml(path) == {
        ("adapter", "rank"): 8,
        ("optimizer", "options"): {"eps": 1e-8},
        ("dataset", "subsets"): [{"data": "C:\\cat", "repeats": 2}],
    }


def test_a_value_is_a_short_line() -> None:
    endless: list[Any] = []
    endless.append([endless] * 50)
    assert [len(shown(value)) <= MAX_SHOWN for value in ("a\nb" * 99, endless, 1.5)] == [True] * 3
    assert (shown(1.5), shown("a\nb")) == ("1.5", "a b")
