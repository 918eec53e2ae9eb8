"""A run on disk: names, events, ledger, states and locks. No torch."""
