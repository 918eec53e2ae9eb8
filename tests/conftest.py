"""One thread everywhere: bytes depend on the thread count, and tests compare bytes."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("LORASMITH_LANG", None)

pytest_plugins = ["tests.runs.fixtures"]
