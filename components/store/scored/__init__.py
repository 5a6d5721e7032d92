"""Predictions on their way in: batches, and chunks of rows."""
