"""Measurements: one script a question; `results/` holds what they wrote, with commit, device and seed."""
