"""Bundled and generated models and pictures, for the demo and for tests."""
