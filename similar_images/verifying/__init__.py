"""Two images to a verdict: the same as a whole, in part, or not; by what still differs."""
