"""The resolution of sd-scripts' command line and dataset files: a side, or width and height."""

from __future__ import annotations

from lorasmith.errors import ConfigError


def resolution(text: str, shown: str) -> int | list[int]:
    """The side of `512` or `512,512`, or width and height of `512,768`.

    Args:
        shown: the argument or key, for messages.

    Raises:
        ConfigError: `sd_resolution`.
    """
    try:
        sides = [int(side) for side in text.split(",")]
    except ValueError:
        raise ConfigError("sd_resolution", argument=shown, value=text) from None
    if len(sides) not in (1, 2):
        raise ConfigError("sd_resolution", argument=shown, value=text)
    return sides[0] if len(set(sides)) == 1 else sides
