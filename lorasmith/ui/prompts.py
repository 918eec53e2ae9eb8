"""Asks the user questions on a terminal. An invalid answer is refused and the question asked again.

Nothing is changed on disk here, so leaving at a prompt leaves everything as it was.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorasmith.ui.cli import AbandonedError
from lorasmith.ui.options import Mode
from lorasmith.ui.translator import Translator

DEMO = "demo"
BASE_FORMS = {"base": "base", "distilled": "distilled", "unsure": ""}
"""Choice -> value of --base-form."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def can_ask() -> bool:
    """Whether input and output are a terminal, so that a question can be answered."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def half_width(answer: str) -> str:
    """The answer with ordinary signs in place of those that an input method for Chinese makes wide. Not for paths,
    which may hold them."""
    return unicodedata.normalize("NFKC", answer)


@dataclass(frozen=True, slots=True)
class Prompter:
    """Asks in one language."""

    words: Translator

    def mode(self, *, default: Mode) -> Mode:
        """Asks whether to start a new LoRA or to continue."""
        answers: dict[str, Mode] = {"1": "new", "n": "new", "new": "new"}
        answers |= {"2": "continue", "c": "continue", "continue": "continue"}
        print(self.words.say("prompt.mode"))
        for number, mode in enumerate(("new", "continue"), start=1):
            print(f"  {number}. {self.words.say(f'prompt.mode_{mode}')}")
        shown = "1" if default == "new" else "2"
        while True:
            answer = half_width(self._ask(self.words.say("prompt.choice", default=shown))).lower() or shown
            if answer in answers:
                return answers[answer]
            print(self.words.say("prompt.not_a_choice", answer=answer, choices="1, 2"))

    def steps(self, *, default: int) -> int:
        """Asks for the number of steps, at least 1."""
        while True:
            answer = self._ask(self.words.say("prompt.steps", default=default))
            if not answer:
                return default
            if answer.isdecimal() and int(answer) > 0:
                return int(answer)
            print(self.words.say("prompt.not_steps", answer=answer))

    def hold_out(self, *, pictures: int, count: int) -> bool:
        """Asks whether to hold out `count` pictures; Enter is no."""
        print(self.words.say("prompt.hold_out", count=count, pictures=pictures))
        answers = {"y": True, "yes": True, "": False, "n": False, "no": False}
        while True:
            answer = half_width(self._ask(self.words.say("prompt.hold_out_choice"))).lower()
            if answer in answers:
                return answers[answer]
            print(self.words.say("prompt.not_a_choice", answer=answer, choices="y, n"))

    def base_model(self, found: Sequence[Path]) -> str:
        """Asks for a base model: a number of the list, `demo`, or a path or hub id that exists."""
        choices = [*map(str, found), DEMO]
        print(self.words.say("prompt.base_model"))
        for number, choice in enumerate(choices, start=1):
            note = self.words.say("prompt.demo") if choice == DEMO else ""
            print(f"  {number}. {choice}  {note}".rstrip())
        while True:
            answer = self._ask(self.words.say("prompt.base_model_choice"))
            if answer.isdecimal() and 1 <= int(answer) <= len(choices):
                return choices[int(answer) - 1]
            path = Path(_unquoted(answer)).expanduser()
            if answer and (answer == DEMO or path.exists()):
                return DEMO if answer == DEMO else str(path)
            if HUB_ID.fullmatch(answer):
                return answer
            print(self.words.say("prompt.not_a_model", answer=answer) if answer else self.words.say("prompt.no_model"))

    def base_form(self, *, path: str, form: str) -> str:
        """Asks what a base model is whose files do not tell: a value of --base-form; "": the user does not know."""
        print(self.words.say("prompt.base_form", path=path, form=form))
        for number, choice in enumerate(BASE_FORMS, start=1):
            print(f"  {number}. {self.words.say(f'prompt.base_form_{choice}', form=form)}")
        numbers = {str(number): form for number, form in enumerate(BASE_FORMS.values(), start=1)}
        while True:
            answer = half_width(self._ask(self.words.say("prompt.number")))
            if answer in numbers:
                return numbers[answer]
            print(self.words.say("prompt.not_a_choice", answer=answer, choices=", ".join(numbers)))

    def part(self, name: str, paths: Sequence[str]) -> str:
        """Asks which of several files is the part of the base model that people call `name`."""
        print(self.words.say("prompt.part", part=name))
        for number, path in enumerate(paths, start=1):
            print(f"  {number}. {path}")
        while True:
            answer = self._ask(self.words.say("prompt.number"))
            if answer.isdecimal() and 1 <= int(answer) <= len(paths):
                return paths[int(answer) - 1]
            print(self.words.say("prompt.not_a_choice", answer=answer, choices=f"1\u2013{len(paths)}"))

    def _ask(self, question: str) -> str:
        try:
            return input(f"{question} ").strip()
        except EOFError:
            raise AbandonedError from None


def _unquoted(text: str) -> str:
    """The text without the quotation marks that a terminal puts around a dropped path."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text
