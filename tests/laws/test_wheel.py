"""What is installed is all of the package: the demo's model with its card, the words, the tables."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODEL = "lorasmith/demo/base_model/"
MAX_BYTES = 20 * 10**6  # of the model
VOCABULARIES = 3 * 10**6  # CLIP's, Qwen's and T5's, packed


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "lorasmith", source / "lorasmith", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    wanted = {file.relative_to(source).as_posix() for file in (source / "lorasmith").rglob("*") if file.is_file()}
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        entries = [entry for entry in packed.infolist() if entry.filename.startswith("lorasmith/")]
    assert {entry.filename for entry in entries} == wanted
    model = [entry for entry in entries if entry.filename.startswith(MODEL)]
    assert {f"{MODEL}README.md", f"{MODEL}samples.webp"} <= {entry.filename for entry in model}
    assert sum(entry.file_size for entry in model) <= MAX_BYTES
    assert wheel.stat().st_size <= MAX_BYTES + VOCABULARIES + 10**6
