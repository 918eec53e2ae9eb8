"""What a person touches: the only place that prints, asks, and knows words."""
