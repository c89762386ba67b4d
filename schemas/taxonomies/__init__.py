"""Harm categories, and how benchmarks map onto them."""
