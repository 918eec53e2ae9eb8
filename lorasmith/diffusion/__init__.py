"""The mathematics of diffusion, as values and pure functions of tensors."""
