"""Figures as PNG files, a file for each kind of run or result."""
