"""Whole runs: fine-tuning from arguments to model card, and tables of runs."""
