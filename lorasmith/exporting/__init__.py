"""LoRA files for the WebUI: names, metadata, and the check that a file passes before it gets its name."""
