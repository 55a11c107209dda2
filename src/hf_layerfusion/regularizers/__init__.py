"""Regularization terms that are added to a model's own loss and need further forward passes over the batch."""
