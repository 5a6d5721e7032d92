"""Samples of predictions that people are asked about: drawn once, counted as estimators need them."""
