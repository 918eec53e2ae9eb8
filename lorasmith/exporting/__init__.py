"""The LoRA file for the WebUI: names, metadata, and the check that it passes before it gets its name."""
