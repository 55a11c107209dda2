"""Releases: trained and published, or carded from run files."""
