"""Reproduction of the papers' tables, and releases: declared in files, run, compared and reported. Not part of the
wheel."""
