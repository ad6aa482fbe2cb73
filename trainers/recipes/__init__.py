"""Runnable recipes: `python -m trainers.recipes.NAME --help`."""
