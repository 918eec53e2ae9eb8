"""Distances between pictures. Knows arrays; nothing of files, formats of models, runs or people."""
