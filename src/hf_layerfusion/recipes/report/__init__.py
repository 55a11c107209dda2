"""A page that shows what finished runs measured."""
