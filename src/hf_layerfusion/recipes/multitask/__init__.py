"""Runs of several tasks."""
