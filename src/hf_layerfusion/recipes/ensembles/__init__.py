"""The ensemble recipe: combining trained models."""
