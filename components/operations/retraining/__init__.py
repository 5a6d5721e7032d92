"""Retraining: what may cause it, whether it is worth it, the attempt itself, its candidates, advice afterwards."""
