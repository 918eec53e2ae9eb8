"""Tools for finished LoRA files: inspecting, converting, merging, resizing and extracting them, without torch."""
