"""Models that judge images they never saw, for the label audit and cross-validation."""
