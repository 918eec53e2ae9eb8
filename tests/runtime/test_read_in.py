from pathlib import Path

from lorasmith.config import Request
from lorasmith.runtime.prompt_files import PROMPTS
from lorasmith.runtime.read_in import with_files_read
from lorasmith.runtime.thumbnail import SPEC


def test_a_run_keeps_what_the_files_hold(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a dog\n")
    (tmp_path / "t.png").write_bytes(b"\x89PNG")
    values = with_files_read({SPEC: {"thumbnail": "t.png"}}, Request(sample_prompts="p.txt"), tmp_path)
    assert values[PROMPTS] == ("a dog",)
    assert values[SPEC]["thumbnail"].startswith("data:image/png")
