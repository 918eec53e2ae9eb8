"""Trains LoRAs for image-diffusion models: exactly the steps asked for, the same bytes after any interruption."""

__version__ = "0.1.0"
