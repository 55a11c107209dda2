"""The Trainer with the objects that it wires together, its arguments and its callbacks."""
