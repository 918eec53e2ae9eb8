"""What the text encoder does not see of captions and prompts is found before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorasmith.config import RunConfig
from lorasmith.data.folder import scan
from lorasmith.session.unseen_words import unseen_words
from tests.data.drawing import put_picture


class ThreeWords:
    """A family that sees three tags."""

    caption_tokens = 3

    def first_unseen_tag(self, caption: str) -> str:
        return "".join(caption.split(", ")[3:4])


def found(folder: Path, *, prompts: tuple[str, ...] = ()) -> list[tuple[str, dict[str, Any]]]:
    config = RunConfig().with_values({("dataset", "folder"): str(folder), ("evaluation", "sample_prompts"): prompts})
    seen = scan(folder, resolution=64, size_multiple=8, trigger_word="sks", skip_bad=False, check_pixels=False)
    return unseen_words(config, ThreeWords(), seen.examples)  # type: ignore[arg-type]


def test_captions_with_their_trigger_word_and_prompts(tmp_path: Path) -> None:
    for name, words in (("a", "one, two, three"), ("b", "one, two"), ("c", "one, two, 3, 4")):
        put_picture(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(words)
    assert found(tmp_path, prompts=("short", "1, 2, 3, lost")) == [
        ("captions_cut", {"count": 2, "files": ["a.png", "c.png"], "limit": 3, "tag": "three"}),
        ("prompts_cut", {"count": 1, "limit": 3, "tag": "lost"}),
    ]


def test_nothing_where_all_is_seen(tmp_path: Path) -> None:
    put_picture(tmp_path / "a.png")
    assert found(tmp_path, prompts=("a, b, c",)) == []
