"""LoRA files of any trainer, as far as their names and headers tell: family, kind, layers, ranks. Without torch."""
