"""Tables of ensembles, out of run files alone."""
