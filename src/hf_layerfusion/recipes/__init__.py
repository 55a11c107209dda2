"""Recipes: complete runs from command-line arguments to a folder with model, predictions, plots and model card."""
