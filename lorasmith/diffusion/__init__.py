"""The mathematics of diffusion as pure functions: torch and nothing else."""
