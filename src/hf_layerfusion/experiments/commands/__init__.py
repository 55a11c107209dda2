"""The commands of `python -m hf_layerfusion`."""
