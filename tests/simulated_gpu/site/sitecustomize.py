"""Gives every Python program that is started with this folder in PYTHONPATH a simulated GPU."""

import os

if "SIMULATED_GPU" in os.environ:
    import simulated_cuda

    simulated_cuda.install(os.environ["SIMULATED_GPU"])
