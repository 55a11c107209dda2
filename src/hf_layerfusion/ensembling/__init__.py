"""Several models that answer as one: how their predictions are combined, and the folder that they are kept in."""
