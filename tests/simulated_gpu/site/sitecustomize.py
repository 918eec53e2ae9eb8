"""Gives every Python program that is started with this folder in PYTHONPATH a simulated GPU."""

import os

if "SIMULATED_GPU" in os.environ:
    from simulated_cuda import install  # type: ignore[import-not-found]  # of a folder in PYTHONPATH

    install(os.environ["SIMULATED_GPU"])
