"""A run's life in the worker: load, begin, steps, saves, exports."""
