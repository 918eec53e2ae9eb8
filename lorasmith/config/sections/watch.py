"""Section `watch`: when a run counts as stuck."""

from lorasmith.config.fields import Section, option

MAX_SECONDS = 1_000_000  # eleven days; the system's clocks do not take longer times


class WatchConfig(Section):
    """Limits of the supervisor."""

    stall_timeout: float = option("stall-timeout", 300.0, effect="cadence", gt=0, le=MAX_SECONDS)
    """Seconds without a sign of life, at least."""
    max_seconds_per_step: float = option("max-seconds-per-step", 30.0, effect="cadence", gt=0, le=MAX_SECONDS)
    """Seconds between completed steps that the whole of a start may take on average."""
    no_restart: bool = option("no-restart", False, effect="cadence")
    """Whether a crashed or hung worker is never started again."""
