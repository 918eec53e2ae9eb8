"""Settings of other trainers' programs, read into those of `lorasmith.toml`. Writes nothing and needs no torch."""
