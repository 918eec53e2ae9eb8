"""The user interface: the only package that prints, asks questions and shows sentences."""
