"""The multitask recipe: one model of several tasks."""
