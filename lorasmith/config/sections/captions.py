"""Section `captions`: where captions are read from, and how they vary from use to use."""

import re

from pydantic import field_validator

from lorasmith.config.fields import Section, option
from lorasmith.config.sections.objective import Unused

_EXTENSION = re.compile(r"\.[A-Za-z0-9._-]*[A-Za-z0-9_-]")


class CaptionsConfig(Section):
    """The reading of captions and their changes from use to use; a *tag* is the text between two separators."""

    extension: str = option("caption-extension", "", effect="learning", per_subset=True)
    """Extension of caption files, with or without its dot; "": `.txt`, and `.caption` where there is no `.txt`."""
    shuffle: bool = option("shuffle-caption", False, effect="learning", per_subset=True)
    """Whether tags change places at each use."""
    keep_tokens: int = option("keep-tokens", 0, effect="learning", per_subset=True, ge=0)
    """Number of tags at the start that stay where they are."""
    keep_tokens_separator: str = option("keep-tokens-separator", "", effect="learning", per_subset=True)
    """Text in a caption that ends the tags that stay, in place of their number; a second one begins those that stay at
    the end. "": none."""
    separator: str = option("caption-separator", ",", effect="learning", per_subset=True, min_length=1)
    """Text between tags."""
    secondary_separator: str = option("secondary-separator", "", effect="learning", per_subset=True)
    """Text between tags that stay together; becomes the separator at last. "": none."""
    has_wildcards: bool = option("enable-wildcard", False, effect="learning", per_subset=True)
    """Whether a line of the caption file, and a text of each `{a|b}`, is chosen at each use."""
    prefix: str = option("caption-prefix", "", effect="learning", per_subset=True)
    """Text put before every caption, with a space."""
    suffix: str = option("caption-suffix", "", effect="learning", per_subset=True)
    """Text put after every caption, with a space."""
    dropout: float = option("caption-dropout-rate", 0.0, effect="learning", per_subset=True, ge=0, le=1)
    """Probability with which an example is used without its caption."""
    dropout_every_n_epochs: int = option("caption-dropout-every-n-epochs", 0, effect="learning", per_subset=True, ge=0)
    """In every epoch whose number is a multiple of it all captions are empty; 0: never."""
    tag_dropout: float = option("caption-tag-dropout-rate", 0.0, effect="learning", per_subset=True, ge=0, le=1)
    """Probability with which a tag is left out, of those that may move."""
    warmup_tags: int = option("token-warmup-min", 1, effect="learning", per_subset=True, ge=0)
    """Number of tags that the first step sees, of those that may move."""
    warmup_steps: float = option("token-warmup-step", 0.0, effect="learning", per_subset=True, ge=0)
    """Steps until all tags are seen; below 1 a share of the target; 0: all from the first step on."""

    @field_validator("extension")
    @classmethod
    def _with_dot(cls, value: str) -> str:
        extension = f".{value.strip().lstrip('.').lower()}" if value.strip() else ""
        if extension and not _EXTENSION.fullmatch(extension):
            raise ValueError("must be the extension of a file")
        return extension

    @field_validator("warmup_steps")
    @classmethod
    def _whole_steps(cls, value: float) -> float:
        if value >= 1 and value != int(value):
            raise ValueError("must be a whole number, or a share below 1")
        return value

    @property
    def extensions(self) -> tuple[str, ...]:
        """The extensions of caption files, in lower case; an earlier extension takes precedence."""
        return (self.extension,) if self.extension else (".txt", ".caption")

    @property
    def unused_options(self) -> tuple[Unused, ...]:
        """The options that are set and have no effect."""
        moving = "--shuffle-caption, --caption-tag-dropout-rate, --token-warmup-step"
        found = [Unused("token-warmup-min", "--token-warmup-step")] if not self.warmup_steps else []
        if not (self.shuffle or self.tag_dropout or self.warmup_steps):
            found += [Unused("keep-tokens", moving), Unused("caption-separator", moving)]
        own = {"token-warmup-min": self.warmup_tags != 1, "keep-tokens": self.keep_tokens > 0}
        own["caption-separator"] = self.separator != "," and not self.secondary_separator
        return tuple(unused for unused in found if own[unused.option])

    def resolved_warmup_steps(self, target: int) -> int:
        """`warmup_steps` of a run with this target, in total steps."""
        return int(self.warmup_steps * target) if self.warmup_steps < 1 else int(self.warmup_steps)
