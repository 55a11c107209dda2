"""A search before a run."""
