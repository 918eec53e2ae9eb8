"""Evaluation of a run: validation loss, sample pictures, picture metrics, the best step."""
