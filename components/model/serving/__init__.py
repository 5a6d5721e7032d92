"""The file that scores, and what computes with it."""
