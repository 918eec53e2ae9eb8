"""Keys and shapes of LoRA files that people have published: the family of each is found by its header alone."""

import json
from pathlib import Path

import pytest

from lorasmith.lora_files.names import FAMILY_NAMES
from lorasmith.lora_files.reader import read_lora
from tests.families.tiny import write_header

LISTS = sorted((Path(__file__).parent / "published").glob("*.txt"))


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_the_family_of_a_published_file(path: Path, tmp_path: Path) -> None:
    """Where a source states no shapes, tensors have a single number: names decide."""
    _, family, *lines = path.read_text(encoding="ascii").splitlines()
    has_shapes = any(" " in line for line in lines)
    shapes = {}
    for line in lines:
        key, *sides = line.split()
        shapes[key] = tuple(map(int, sides)) if has_shapes or key.endswith(".alpha") else (1, 1)
    file = read_lora(write_header(tmp_path / "lora.safetensors", shapes))
    assert FAMILY_NAMES.get(file.family, file.family) == family.removeprefix("# ")
    assert len(file.modules) > 0


def test_there_are_enough() -> None:
    assert len(LISTS) >= 15
    assert json.dumps([path.stem for path in LISTS]).isascii()
