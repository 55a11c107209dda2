"""The command line: the `hf-layerfusion` commands, and the frame of every script."""
