"""Networks and their weights, by name."""
