"""A run's life and record: what names it, its folder, how its job ends, a sweep's progress, W&B, the terminal."""
