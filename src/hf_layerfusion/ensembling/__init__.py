"""Ensembles: combining the predictions of several models, and saving them as one."""
