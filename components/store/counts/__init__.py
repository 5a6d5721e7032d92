"""Predictions counted by day: what drift tests and rates are made from."""
