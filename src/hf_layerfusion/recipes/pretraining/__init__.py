"""Further pre-training."""
