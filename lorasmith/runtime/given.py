"""The options that a person has set, as distinct from those that a start resolves: reports show the two apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.config import RunConfig, options

GIVEN = ("", "given")


def given_options(values: Mapping[tuple[str, str], Any], before: RunConfig | None = None) -> tuple[str, ...] | None:
    """The names of the options that are set to something else than their defaults, by `values` or by an earlier start
    of the run; None where an earlier start has not recorded them.

    Args:
        values: with `GIVEN` in it, only options of these names count: the others were set for the person, by `demo` or
            by sd-scripts' defaults.
        before: the settings of the earlier start; None for a new run.
    """
    earlier: tuple[str, ...] | None = () if before is None else before.given
    if earlier is None:
        return None
    default = RunConfig()
    typed = default.with_values(values)
    names = {option.name for option in options().values() if option.value_in(typed) != option.value_in(default)}
    names &= set(values.get(GIVEN, names))
    return tuple(sorted({*earlier, *names}))
