"""Monitoring: how much to ask for, windows judged, drift watched and explained, the reference, what follows."""
