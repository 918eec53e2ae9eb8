"""The table of families."""

import subprocess
import sys

import pytest

from lorasmith.families import FAMILIES, load_family
from lorasmith.families.recognize import recognize


def test_a_family_is_found_by_its_weights(miniature) -> None:
    weights = recognize(miniature.folder)
    family = load_family(weights)
    assert family.traits.name == weights.family == "sd15"
    assert family.weights is weights


def test_a_pickle_is_examined_first(narrow) -> None:
    family = load_family(recognize(narrow.ckpt))
    assert (family.weights.family, family.weights.layout) == ("sd15", "pickle")


def test_listing_the_names_loads_nothing() -> None:
    code = "import sys; from lorasmith.families import FAMILIES; print('torch' in sys.modules, *FAMILIES)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", *FAMILIES]


@pytest.mark.ci
def test_loading_a_family_imports_no_model_class(miniature) -> None:
    """With everything cached, only the denoiser is needed: neither library is imported for the rest."""
    code = (
        "import sys; from pathlib import Path\n"
        "from lorasmith.families import load_family; from lorasmith.families.recognize import recognize\n"
        f"load_family(recognize(Path({str(miniature.folder)!r}))).encoder_hashes()\n"
        "print('torch' in sys.modules, 'diffusers' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "False"]
