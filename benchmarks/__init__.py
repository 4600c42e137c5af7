"""The README's figures, measured: python -m benchmarks.run."""
