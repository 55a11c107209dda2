"""Ensembles of trained models."""
