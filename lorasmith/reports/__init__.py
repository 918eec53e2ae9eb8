"""What is made from the ledger for people and programs to look at; all of it can be deleted and made again.

Knows neither torch nor the engine: only events and paths.
"""
