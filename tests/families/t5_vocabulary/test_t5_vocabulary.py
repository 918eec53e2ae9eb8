"""T5's vocabulary as the package carries it."""

import json
import subprocess
import sys

from lorasmith.families import t5_vocabulary
from lorasmith.families.t5_vocabulary import T5_TOKENS, t5_tokenizer_files


def test_the_vocabulary_is_t5s() -> None:
    """Numbers of tokens as the published model has them."""
    content = json.loads(t5_tokenizer_files()["tokenizer.json"])
    pieces = [piece for piece, _ in content["model"]["vocab"]]
    assert len(pieces) == len(set(pieces)) == T5_TOKENS == 32_100
    known = {"<pad>": 0, "</s>": 1, "<unk>": 2, "\u2581": 3, "a": 9, "\u2581red": 1131, "<extra_id_0>": 32_099}
    assert {piece: pieces.index(piece) for piece in known} == known
    assert content["model"]["unk_id"] == 2


def test_the_licence_of_the_vocabulary_lies_beside_it() -> None:
    assert "Apache License" in (t5_vocabulary._HERE / "LICENSE").read_text()


def test_it_needs_the_standard_library_only() -> None:
    code = (
        "import sys, lorasmith.families.t5_vocabulary as t5; t5.t5_tokenizer_files()\n"
        "print({'torch', 'numpy', 'tokenizers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
