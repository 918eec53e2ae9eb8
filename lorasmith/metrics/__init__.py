"""Differences between pictures. Works on arrays only."""
