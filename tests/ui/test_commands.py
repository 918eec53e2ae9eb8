import shlex

import pytest

from lorasmith.ui import commands
from lorasmith.ui.commands import typed


def test_a_shell_reads_what_was_meant() -> None:
    words = ["tensorboard", "--logdir", "我的 out/lo'gs"]
    assert shlex.split(typed(words)) == words
    assert typed(["lorasmith", "train"]) == "lorasmith train"


def test_on_windows_names_are_in_double_quotes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "on_windows", lambda: True)
    assert typed(["cd", "D:\\示範"]) == "cd D:\\示範"
    assert typed(["cd", "D:\\my lora"]) == 'cd "D:\\my lora"'
