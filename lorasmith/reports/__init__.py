"""Files made from the ledger for people and programs to read; all of them can be deleted and made again.

Knows neither torch nor the engine: only events and paths.
"""
