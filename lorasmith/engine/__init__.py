"""The training step and what it stands on: state, optimizers, device."""
