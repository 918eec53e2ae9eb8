"""What was learned: validation loss, sample pictures, picture metrics, the best step."""
