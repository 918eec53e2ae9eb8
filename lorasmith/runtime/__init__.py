"""Processes: what a start will do, the supervisor that watches over it, the worker that does it."""
