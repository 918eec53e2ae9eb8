"""Limits on the cost of evaluation. Torch-free, since `lorasmith plan` estimates by the same limits."""

MAX_SHARE = 0.1
"""Share of a start's wall time for its evaluations, without the first, whose cost is still unknown, and the last."""

MAX_VALIDATED = 32
"""Held-out examples that the validation loss is measured on."""
