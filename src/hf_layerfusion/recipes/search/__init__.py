"""Hyperparameter search before a run."""
