"""The request of a single start."""

from typing import Any, Literal

from pydantic import field_validator

from lorasmith.config.fields import Section, option
from lorasmith.languages import language_named

MAX_STEPS = 1_000_000_000


class Request(Section):
    """The options of a single start. They are not stored with the run and are no part of its identity."""

    steps: int | None = option("steps", None, effect="learning", common=True, ge=1, le=MAX_STEPS)
    """Steps to train: the target with --new; with --continue, steps beyond the highest saved step."""
    epochs: int | None = option("epochs", None, effect="learning", common=True, ge=1, le=MAX_STEPS)
    """Passes over the pictures, converted to steps; instead of `steps`."""
    memory: str | None = option("memory", None, effect="learning", common=True)
    """Memory of the device, `8GiB`: settings that fit it are chosen when a run is new. None: nothing is chosen; "", of
    an empty variable of the shell, is refused."""
    output: str = option("output", "lora_output", effect="cadence", common=True, holds="path")
    """The run folder."""
    sample_prompts: str = option("sample-prompts", "", effect="cadence", holds="path")
    """A file of prompts, whose prompts are added to --sample-prompt."""
    lang: Literal["", "en", "zh-TW"] = option("lang", "", effect="cadence", common=True)
    """Language of the messages; "" takes LORASMITH_LANG, then the locale."""
    verbose: bool = option("verbose", False, effect="cadence")
    """Show technical details of failures, and pictures and operations in a second."""

    @field_validator("lang", mode="before")
    @classmethod
    def _by_any_name(cls, value: Any) -> Any:
        return (language_named(value) or value) if isinstance(value, str) else value
