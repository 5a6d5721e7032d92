"""Whether a candidate may be promoted: every question, with its numbers."""
