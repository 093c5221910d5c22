"""Training of multi-exit classifiers: losses, trainer, checkpoints, fine-tuning, accuracy."""
