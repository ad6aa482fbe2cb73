"""Twenty Questions: find a hidden thing by asking questions that are answered yes or no."""
