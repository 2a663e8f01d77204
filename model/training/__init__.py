"""Training: the LightningModule, its trainer and meter, checkpoints. Nothing here knows of positions."""
