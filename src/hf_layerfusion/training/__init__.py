"""The Trainer, its arguments, optimizer groups and callbacks."""
