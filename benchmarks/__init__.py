"""Benchmarks: the README's and the documentation's figures."""
