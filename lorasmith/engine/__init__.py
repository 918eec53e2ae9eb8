"""The training step and what it needs: state, optimizers, device, execution."""
