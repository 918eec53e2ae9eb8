"""From a folder of pictures to batches of latents. Everything but `cache` and `collate` works without torch."""
