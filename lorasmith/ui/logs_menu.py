"""The menu of `view_training_logs.sh` and of the .bat file beside it: the summary, TensorBoard, or leave."""

from __future__ import annotations

from collections.abc import Callable

from lorasmith.ui.prompts import half_width
from lorasmith.ui.translator import Translator

CHOICES = ("tensorboard", "summary", "leave")


def menu(words: Translator, *, show: Callable[[], None], tensorboard: Callable[[], object]) -> None:
    """Shows the summary, then asks for a choice until the person leaves: by its number, an empty line or Ctrl+C."""
    show()
    while True:
        print()
        for number, choice in enumerate(CHOICES, start=1):
            print(f"  {number}. {words.say(f'menu.{choice}')}")
        try:
            answer = half_width(input(words.say("menu.choice") + " ").strip())
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if answer in ("", "3", "q"):
            return
        if answer == "1":
            tensorboard()
        elif answer == "2":
            show()
        else:
            print(words.say("prompt.not_a_choice", answer=answer, choices="1, 2, 3"))
